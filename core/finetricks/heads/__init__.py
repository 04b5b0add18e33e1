"""Many heads at once: what is left of runs whose body never thaws, trained together on what the body gives."""

from finetricks.heads.apart import Apart, reason_apart
from finetricks.heads.together import run_together

__all__ = ["Apart", "reason_apart", "run_together"]
