"""Methods that treat weights as matrices."""

from optimizers.matrix.by_role import ByRole

__all__ = ["ByRole"]
