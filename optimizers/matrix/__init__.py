"""Methods that treat weights as matrices."""

from optimizers.matrix.kl_shampoo import KLShampoo
from optimizers.matrix.muon import Muon
from optimizers.matrix.shampoo import Shampoo
from optimizers.matrix.soap import SOAP

__all__ = ["SOAP", "KLShampoo", "Muon", "Shampoo"]
