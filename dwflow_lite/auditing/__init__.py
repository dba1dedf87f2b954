"""New or copied? Generated networks beside their zoo, held-out networks and simple generators."""

from dwflow_lite.auditing.audit import audit
from dwflow_lite.auditing.ceiling import Ceiling, codec_ceiling
from dwflow_lite.auditing.measures import nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.auditing.table import Audit, Row

__all__ = [
    "Audit",
    "Ceiling",
    "Row",
    "audit",
    "codec_ceiling",
    "nearest_distance",
    "rematched_distance",
    "wrong_set_overlap",
]
