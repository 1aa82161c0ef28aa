"""Methods with the curvature, or the gradients' second moment, in a space of few dimensions."""

from optimizers.low_rank.fosi import FOSI
from optimizers.low_rank.ggt import GGT
from optimizers.low_rank.mfac import MFAC

__all__ = ["FOSI", "GGT", "MFAC"]
