"""The course: helpers for its notebooks, and the programs that run and check it.

Importing this package is quick and needs neither torch nor papermill.
"""

from dwflow_lite.course.claims import above, below
from dwflow_lite.course.notebook import markdown_table, note, record, runs_on
from dwflow_lite.course.paths import artefacts, data_folder, notebooks_folder, repository

__all__ = [
    "above",
    "artefacts",
    "below",
    "data_folder",
    "markdown_table",
    "note",
    "notebooks_folder",
    "record",
    "repository",
    "runs_on",
]
