"""The test functions by name: Moré, Garbow and Hillstrom's 35, multimodal ones and saddles.

Moré, Garbow and Hillstrom, "Testing unconstrained optimization software", ACM Transactions on
Mathematical Software 7(1), 1981, pp. 17-41.
"""

from tasks.functions.problem import Problem
from tasks.functions.problems.data_fits import DATA_FITS
from tasks.functions.problems.discretised import DISCRETISED
from tasks.functions.problems.extended import EXTENDED
from tasks.functions.problems.multimodal import MULTIMODAL
from tasks.functions.problems.polynomials import POLYNOMIALS
from tasks.functions.problems.saddles import SADDLES
from tasks.functions.problems.small_systems import SMALL_SYSTEMS
from tasks.functions.problems.two_parameters import TWO_PARAMETERS

_ALL = (
    TWO_PARAMETERS
    + SMALL_SYSTEMS
    + DATA_FITS
    + POLYNOMIALS
    + EXTENDED
    + DISCRETISED
    + MULTIMODAL
    + SADDLES
)
_AFTER_THE_COLLECTION = 36

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in sorted(_ALL, key=lambda problem: problem.number or _AFTER_THE_COLLECTION)
}
"""Every test function, the collection's first and in its order."""

MORE_GARBOW_HILLSTROM: tuple[str, ...] = tuple(
    name for name, problem in PROBLEMS.items() if problem.number
)
"""The names of the collection's 35 problems, in the paper's order."""

__all__ = ["MORE_GARBOW_HILLSTROM", "PROBLEMS", "Problem"]
