"""Verdicts: which of two methods costs less to reach a level, and whether the runs can tell.

Called, the package is the function of its name:

>>> suite.compare("kfac", "adamw", task="mlp")  # doctest: +SKIP
mlp: kfac needs 0.38x the steps [0.31, 0.45], ...; faster at 95 %.

`help("suite.compare.comparison.compare")` explains its arguments.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.compare.comparison import Comparison


class _CallablePackage(ModuleType):
    """The package and the function of its name.

    The command `python -m suite.compare` fixes the package's name, and loading a package binds that
    name in its parent. So `suite.compare` has to be both.
    """

    def __call__(self, first: str, second: str, /, **options: Any) -> "Comparison":
        from suite.compare.comparison import compare  # now: `import suite` need not wait for pandas

        return compare(first, second, **options)


sys.modules[__name__].__class__ = _CallablePackage
