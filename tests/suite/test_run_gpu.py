"""Runs on CUDA: the same record, the allocator's memory, bf16, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from suite.config import device
from suite.training.measures import memory

Train = Callable[..., Any]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MLP = ("task=mlp", "steps=6", "task.eval_every=3", "log_every=1", "device=cuda")


@pytest.mark.parametrize("optimizer", ["sgd", "kfac", "muon"])
def test_a_run_on_cuda_leaves_the_same_record_and_agrees_with_the_cpu(
    train: Train, optimizer: str
) -> None:
    done = train(f"optimizer={optimizer}", *MLP)
    host = train(f"optimizer={optimizer}", *MLP[:-1], "device=cpu")

    assert (done.status, host.status) == ("done", "done")
    assert done.directory != host.directory
    assert done.config["device"] == "cuda"
    assert done.environment["gpu"] == torch.cuda.get_device_name()
    assert list(done.summary) == list(host.summary)
    assert done.column("loss")[:2] == pytest.approx(host.column("loss")[:2], rel=1e-2)
    assert {tensor.device.type for tensor in done.checkpoint["model"].values()} == {"cuda"}


def test_auto_chooses_cuda(planned: Train) -> None:
    assert device.choose("auto").type == "cuda"
    assert (
        planned("device=auto").run_id
        == planned("device=cuda").run_id
        != planned("device=cpu").run_id
    )


def test_the_peak_is_the_allocators() -> None:
    place = torch.device("cuda")
    before = torch.cuda.memory_allocated(place)
    peak = memory.peak_bytes(lambda: lambda: torch.empty(1 << 20, device=place), 0, place)
    assert 4 << 20 <= peak - before < 8 << 20


def test_the_peak_of_a_run_repeats(train: Train) -> None:
    first = train("optimizer=adam", *MLP).summary["peak_memory_bytes"]
    assert first > 0
    assert train("optimizer=adam", *MLP, "force=true").summary[
        "peak_memory_bytes"
    ] == pytest.approx(first, rel=0.2)


def test_a_run_on_cuda_resumes(train: Train, planned: Train, at_batch: Train) -> None:
    import signal

    pair = ("optimizer=adam", *MLP)
    with at_batch(planned(*pair), 4, lambda: signal.raise_signal(signal.SIGINT)):
        stopped = train(*pair)
    assert stopped.status == "interrupted"
    resumed = train(*pair)
    losses = resumed.column("loss")
    assert resumed.status == "done"
    assert losses == pytest.approx(train(*pair, "force=true").column("loss"), rel=1e-3)


def test_bf16_autocast_keeps_float32_weights(train: Train) -> None:
    done, exact = train("optimizer=sgd", *MLP, "precision=bf16"), train("optimizer=sgd", *MLP)
    assert {tensor.dtype for tensor in done.checkpoint["model"].values()} == {torch.float32}
    assert done.column("loss") != exact.column("loss")
    assert done.column("loss") == pytest.approx(exact.column("loss"), rel=0.05)


@pytest.mark.slow
def test_a_compiled_first_order_run_agrees_with_the_plain_one(train: Train) -> None:
    compiled, plain = train("optimizer=sgd", *MLP, "compile=true"), train("optimizer=sgd", *MLP)
    assert compiled.status == "done"
    assert compiled.column("loss") == pytest.approx(plain.column("loss"), rel=1e-3)


def test_the_clock_waits_for_the_device() -> None:
    clock = device.clock(torch.device("cuda"))
    matrix = torch.randn(4096, 4096, device="cuda")
    matrix @ matrix
    clock()
    start = clock()
    for _ in range(50):
        matrix @ matrix
    assert clock() - start > 1e-3  # far more than the launches take
