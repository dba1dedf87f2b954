"""The claims of the paper beside what stored results say of them: from numbers to verdicts, and to what is out of date.

``benchmarks/scoreboard.yaml`` names each claim, the paper's figure, and where in ``benchmarks/results`` ours stands.
Nothing here computes a result; ``benchmarks/scoreboard.py`` writes the table, and notebook 12 reads it.
"""

from dwflow_lite.course.scoreboard.age import (
    changed_since,
    code_of,
    fingerprint,
    fingerprints,
    is_old,
    read_stored,
    what_is_old,
)
from dwflow_lite.course.scoreboard.rows import Row, numbers_of, read_claims, read_row, read_rows, select
from dwflow_lite.course.scoreboard.table import accuracies, reasons, short_table
from dwflow_lite.course.scoreboard.verdicts import (
    CONFIDENCE,
    COPIES,
    NEAR,
    NOT_REPRODUCED,
    NOT_RUN,
    OPEN,
    REPRODUCED,
    VERDICTS,
    interval,
    judge,
)

__all__ = [
    "CONFIDENCE",
    "COPIES",
    "NEAR",
    "NOT_REPRODUCED",
    "NOT_RUN",
    "OPEN",
    "REPRODUCED",
    "VERDICTS",
    "Row",
    "accuracies",
    "changed_since",
    "code_of",
    "fingerprint",
    "fingerprints",
    "interval",
    "is_old",
    "judge",
    "numbers_of",
    "read_claims",
    "read_row",
    "read_rows",
    "read_stored",
    "reasons",
    "select",
    "short_table",
    "what_is_old",
]
