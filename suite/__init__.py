"""The suite: it composes a configuration, trains, records, compares and reports.

From Python: `suite.run`, `suite.sweep`, `suite.load` and `suite.compare` do what the commands do.

>>> import suite
>>> suite.sweep(["adamw", "kfac"], ["mlp"], seeds=3, scale="quick")  # doctest: +SKIP
>>> suite.compare("kfac", "adamw", task="mlp", scale="quick")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.api import load, run, sweep
    from suite.compare.comparison import compare

__all__ = ["compare", "load", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """The functions on demand: `import suite` brings in nothing else."""
    if name == "compare":  # the package of the command, which is the function too
        return import_module("suite.compare")
    if name in __all__:
        return getattr(import_module("suite.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
