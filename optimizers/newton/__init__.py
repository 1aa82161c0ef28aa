"""Newton methods."""

from optimizers.newton.newton import Newton

__all__ = ["Newton"]
