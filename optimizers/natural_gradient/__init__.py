"""Natural-gradient methods."""

from optimizers.natural_gradient.kfac import KFAC

__all__ = ["KFAC"]
