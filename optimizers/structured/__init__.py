"""Methods for a loss plus a nonsmooth regulariser whose minimisers are sparse by groups."""

from optimizers.structured.prox_adamw import ProxAdamW
from optimizers.structured.prox_sgd import ProxSGD
from optimizers.structured.ramda import RAMDA

__all__ = ["RAMDA", "ProxAdamW", "ProxSGD"]
