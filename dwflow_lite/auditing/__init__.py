"""New or copied? Generated networks beside their zoo, held-out networks and simple generators."""

from dwflow_lite.auditing.agreement import copying_statistic, effective_rank, error_consistency
from dwflow_lite.auditing.audit import audit
from dwflow_lite.auditing.ceiling import Ceiling, codec_ceiling
from dwflow_lite.auditing.measures import nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.auditing.rows import Bars, Row, Values
from dwflow_lite.auditing.table import Audit

__all__ = [
    "Audit",
    "Bars",
    "Ceiling",
    "Row",
    "Values",
    "audit",
    "codec_ceiling",
    "copying_statistic",
    "effective_rank",
    "error_consistency",
    "nearest_distance",
    "rematched_distance",
    "wrong_set_overlap",
]
