"""Methods that bound the step of a quadratic model: by a radius, or by a cubic term."""

from optimizers.trust_region.arc import ARC
from optimizers.trust_region.subsampled_arc import SubsampledARC
from optimizers.trust_region.tron import TRON
from optimizers.trust_region.trust_region import TrustRegion

__all__ = ["ARC", "TRON", "SubsampledARC", "TrustRegion"]
