"""Adaptive step sizes from losses, line searches and differences of gradients."""

from optimizers.step_size.alig import ALIG
from optimizers.step_size.bb import BB
from optimizers.step_size.gen import GeN
from optimizers.step_size.momo import MoMo
from optimizers.step_size.momo_adam import MoMoAdam
from optimizers.step_size.sls import SLS
from optimizers.step_size.sps import SPS

__all__ = ["ALIG", "BB", "SLS", "SPS", "GeN", "MoMo", "MoMoAdam"]
