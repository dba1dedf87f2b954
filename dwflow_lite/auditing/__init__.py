"""New or copied? Generated networks beside their zoo, held-out networks and simple generators."""

from dwflow_lite.auditing.agreement import copying_statistic, effective_rank, error_consistency
from dwflow_lite.auditing.audit import audit
from dwflow_lite.auditing.ceiling import Ceiling, codec_ceiling
from dwflow_lite.auditing.control import Control, confusion, control_of, scores_on
from dwflow_lite.auditing.fair import as_far_as_held_out, knob_by_distance, typical_distance
from dwflow_lite.auditing.measures import nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.auditing.rows import Bars, Row, Values
from dwflow_lite.auditing.table import Audit

__all__ = [
    "Audit",
    "Bars",
    "Ceiling",
    "Control",
    "Row",
    "Values",
    "as_far_as_held_out",
    "audit",
    "codec_ceiling",
    "confusion",
    "control_of",
    "copying_statistic",
    "effective_rank",
    "error_consistency",
    "knob_by_distance",
    "nearest_distance",
    "rematched_distance",
    "scores_on",
    "typical_distance",
    "wrong_set_overlap",
]
