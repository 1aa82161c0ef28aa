"""Many replicas of one small model, of other hyperparameters and seeds, trained at once."""

from suite.batched.batch import run_batched
from suite.batched.eligibility import reason_against, together

__all__ = ["reason_against", "run_batched", "together"]
