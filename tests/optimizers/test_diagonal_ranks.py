"""AdaFisher, SGD-PH and SOAA in two processes are what they are in one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizers.distributed import SINGLE_PROCESS
from tests.optimizers import diagonal_two_ranks
from tests.optimizers.cases import close
from tests.optimizers.diagonal_two_ranks import WAYS


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    ranks = range(diagonal_two_ranks.SIZE)
    processes = [
        context.Process(target=diagonal_two_ranks.work, args=(rank, str(folder))) for rank in ranks
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in ranks]


@pytest.mark.parametrize("name", WAYS)
def test_the_steps_are_those_of_one_process(both: list[dict[str, Any]], name: str) -> None:
    first, second = (found[name] for found in both)
    expected = diagonal_two_ranks.trained(name, SINGLE_PROCESS)
    assert torch.equal(first["end"], second["end"])
    close(first["end"], expected["end"], 1e-9)
    close(first["losses"], expected["losses"], 1e-9)
    assert float((expected["end"] - expected["start"]).norm()) > 1e-3
    assert (
        first["telemetry"] == second["telemetry"] == pytest.approx(expected["telemetry"], rel=1e-6)
    )
