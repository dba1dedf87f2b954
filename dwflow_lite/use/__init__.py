"""What networks of a zoo, and generated ones, are good for."""

from dwflow_lite.use.curves import Transfer
from dwflow_lite.use.transfer import carry_over, random_starts, transfer, zero_shot

__all__ = ["Transfer", "carry_over", "random_starts", "transfer", "zero_shot"]
