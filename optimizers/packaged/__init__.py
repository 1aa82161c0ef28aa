"""Optimizers of other packages that ask for more than a closure, as methods of this one."""

from optimizers.packaged.adapter import PytorchOptimizer

__all__ = ["PytorchOptimizer"]
