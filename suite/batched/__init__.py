"""Many copies of one small model, of other hyperparameters and seeds, trained at once."""

from suite.batched.reasons import reason_against, together
from suite.batched.running import run_batched

__all__ = ["reason_against", "run_batched", "together"]
