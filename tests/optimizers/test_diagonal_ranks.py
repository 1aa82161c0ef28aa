"""AdaFisher, SGD-PH and SOAA in two processes are what they are in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizers.distributed import SINGLE_PROCESS
from tests.optimizers import diagonal_two_ranks
from tests.optimizers.cases import close
from tests.optimizers.diagonal_two_ranks import WAYS
from tests.optimizers.ranks import results_of_ranks


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the two processes."""
    return results_of_ranks(diagonal_two_ranks.work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", WAYS)
def test_the_steps_are_those_of_one_process(both: list[dict[str, Any]], name: str) -> None:
    first, second = (answers[name] for answers in both)
    expected = diagonal_two_ranks.trained(name, SINGLE_PROCESS)
    assert torch.equal(first["end"], second["end"])
    close(first["end"], expected["end"], 1e-9)
    close(first["losses"], expected["losses"], 1e-9)
    assert float((expected["end"] - expected["start"]).norm()) > 1e-3
    assert (
        first["telemetry"] == second["telemetry"] == pytest.approx(expected["telemetry"], rel=1e-6)
    )
