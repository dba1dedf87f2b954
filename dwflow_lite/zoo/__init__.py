"""A zoo: one matrix (members x weights), in memory or on disk, and how all its networks run at once."""

from dwflow_lite.support.files import ZooFileError
from dwflow_lite.zoo.batching import batched_forward, run_all, runs_batched
from dwflow_lite.zoo.columns import rows_of_columns
from dwflow_lite.zoo.forward import Evaluation, evaluate, forward_all, outputs_of, outputs_on, predict, together
from dwflow_lite.zoo.header import FOLDER, read_header
from dwflow_lite.zoo.layout import Entry, Layout
from dwflow_lite.zoo.record import folder_header, join_record, record_of_members, split_record
from dwflow_lite.zoo.storage import Shards, append, read_folder, start_folder
from dwflow_lite.zoo.zoo import Zoo, write_zoo

__all__ = [
    "FOLDER",
    "Entry",
    "Evaluation",
    "Layout",
    "Shards",
    "Zoo",
    "ZooFileError",
    "append",
    "batched_forward",
    "evaluate",
    "folder_header",
    "forward_all",
    "join_record",
    "outputs_of",
    "outputs_on",
    "predict",
    "read_folder",
    "read_header",
    "record_of_members",
    "rows_of_columns",
    "run_all",
    "runs_batched",
    "split_record",
    "start_folder",
    "together",
    "write_zoo",
]
