"""Newton's methods beside scipy's Newton-CG on the functions of Moré, Garbow and Hillstrom."""

from __future__ import annotations

import pytest

from tasks.functions.problems import MORE_GARBOW_HILLSTROM
from tests.optimizers.peers import Run, median_ratio, our_run, scipy_run

# scipy has no dense form: the dense method's products, n a step, are not compared
DENSE = {"value": 1.0, "grad": 1.5}


@pytest.fixture(scope="module")
def theirs() -> list[Run]:
    return [
        scipy_run(name, "Newton-CG", xtol=1e-15, maxiter=1000) for name in MORE_GARBOW_HILLSTROM
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "largest"),
    [
        ("newton", {}, DENSE),
        ("newton", {"line_search": "strong_wolfe"}, DENSE),
        ("newton_cg", {}, {"value": 1.0, "grad": 1.0, "hvp": 1.0}),
    ],
    ids=["newton-armijo", "newton-strong_wolfe", "newton_cg"],
)
def test_evaluations_on_the_collection_of_more_garbow_and_hillstrom(
    theirs: list[Run], method: str, options: dict[str, str], largest: dict[str, float]
) -> None:
    ours = [our_run(name, method, 500, **options) for name in MORE_GARBOW_HILLSTROM]
    assert sum(run.solved for run in ours) >= sum(run.solved for run in theirs)
    for kind, ratio in largest.items():
        assert median_ratio(ours, theirs, kind) <= ratio
