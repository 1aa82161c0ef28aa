"""K-FAC in two processes is K-FAC in one.

Factors summed, inverses shared out, checkpoints complete.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizers.distributed import SINGLE_PROCESS
from tests.optimizers import kfac_two_ranks
from tests.optimizers.cases import close
from tests.optimizers.kfac_two_ranks import STEPS, TINY, WAYS
from tests.optimizers.ranks import results_of_ranks

MEMORY = [name for name in WAYS if name.startswith("memory")]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the two processes."""
    return results_of_ranks(kfac_two_ranks.work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: kfac_two_ranks.trained(name, SINGLE_PROCESS) for name in WAYS}


@pytest.mark.parametrize("name", WAYS)
def test_ten_steps_are_those_of_one_process(
    both: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    first, second = (answers[name] for answers in both)
    expected = alone[name]
    assert torch.equal(first["end"], second["end"])
    close(first["end"], expected["end"])
    close(first["losses"], expected["losses"])
    assert len(expected["losses"]) == STEPS
    assert float((expected["end"] - expected["start"]).norm()) > 1e-2
    assert first["counts"] == second["counts"] == pytest.approx(expected["counts"])
    assert first["failures"] == second["failures"] == expected["failures"] == {}
    for key, value in expected["telemetry"].items():
        assert first["telemetry"][key] == pytest.approx(value, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", WAYS)
def test_a_checkpoint_holds_everything(
    both: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    states = [
        answers["saved"]["optimizer"]["state"]
        for answers in (both[0][name], both[1][name], alone[name])
    ]
    for one, other, expected in zip(*(state.values() for state in states), strict=True):
        assert set(one) == set(other) == set(expected)
        for key, value in expected.items():
            if isinstance(value, torch.Tensor) and not key.endswith(
                "_basis"
            ):  # eigenvectors have no sign
                assert torch.equal(one[key], other[key])
                close(one[key], value, 1e-8)


@pytest.mark.parametrize("name", WAYS)
def test_a_run_goes_on_from_a_checkpoint(
    both: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    for answers in (*(each[name] for each in both), alone[name]):
        assert torch.equal(answers["gone on"], answers["end"])
        assert torch.equal(answers["resumed"], answers["end"])
    close(kfac_two_ranks.resumed_alone(name, both[1][name]["saved"]), alone[name]["end"])


@pytest.mark.parametrize("name", WAYS)
def test_who_keeps_the_inverses(both: list[dict[str, Any]], name: str) -> None:
    """In memory mode each block's inverse is in one process, and both have some.

    Else they are in both.
    """
    first, second = (answers[name]["held"] for answers in both)
    assert [answers[name]["held after resuming"] for answers in both] == [first, second]
    everything = list(range(both[0][name]["blocks"]))
    if name in MEMORY:
        assert sorted(first + second) == everything
        assert first
        assert second
    else:
        assert first == second == everything


@pytest.mark.parametrize("name", TINY)
def test_parts_with_less_than_an_example_for_every_rank_are_rounded_up(
    both: list[dict[str, Any]], name: str
) -> None:
    first, second = (answers["tiny"][name] for answers in both)
    assert torch.equal(first, second)
    start = torch.cat(
        [p.detach().flatten() for p in kfac_two_ranks.problem_of(TINY[name][2]).params]
    )
    assert bool(first.isfinite().all())
    assert float((first - start).norm()) > 1e-2
