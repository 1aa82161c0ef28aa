"""One integer decides all that is random: the same for every optimizer, another one for another seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from suite.run import build_task
from suite.seeds import stream
from suite.training import Training

Train = Callable[..., Any]

MLP = ("task=mlp", "task.hidden=[8]", "steps=6", "task.eval_every=3", "log_every=1")
STANDING = {  # optimizers that do not move, so that the losses they see tell the batches
    "sgd": ("optimizer=sgd", "optimizer.lr=0"),
    "adam": ("optimizer=adam", "optimizer.lr=0"),
    "kfac": ("optimizer=kfac", "optimizer.lr=0", "optimizer.fallback_lr=0"),
    "muon": ("optimizer=muon", "optimizer.hidden.lr=0", "optimizer.rest.lr=0"),
}


def start(plan: Any) -> list[torch.Tensor]:
    """The parameters a run begins with."""
    training = Training(plan, build_task(plan, torch.device("cpu")), torch.device("cpu"))
    return list(training.model.parameters())


def test_all_optimizers_begin_with_the_same_weights(planned: Train) -> None:
    starts = [start(planned(*choice, *MLP)) for choice in STANDING.values()]

    for other in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], other, strict=True))


def test_all_optimizers_see_the_same_batches(train: Train) -> None:
    runs = [train(*choice, *MLP) for choice in STANDING.values()]
    losses = [run.column("loss") for run in runs]

    assert len(set(losses[0])) == 6
    assert all(column == losses[0] for column in losses)


@pytest.mark.parametrize("seed", [1, 2])
def test_another_seed_has_other_weights_and_batches(train: Train, planned: Train, seed: int) -> None:
    choice = (*STANDING["sgd"], *MLP)
    here, there = start(planned(*choice)), start(planned(*choice, f"seed={seed}"))
    assert not any(torch.equal(a, b) for a, b in zip(here, there, strict=True) if a.any())

    one, other = train(*choice), train(*choice, f"seed={seed}")
    assert one.directory != other.directory
    assert not set(one.column("loss")) & set(other.column("loss"))
    assert (one.summary["seed"], other.summary["seed"]) == (0, seed)


def test_what_went_before_in_the_process_does_not_matter(train: Train) -> None:
    choice = ("optimizer=kfac", *MLP)
    first = train(*choice).repeatable_rows
    torch.manual_seed(12345)
    torch.rand(7)
    train("optimizer=adam", "task=quadratic", "steps=3")

    assert train(*choice, "force=true").repeatable_rows == first


def test_the_streams_of_a_seed_are_apart_and_fixed() -> None:
    names = ("model", "data", "optimizer", "fresh", "dropout")
    numbers = [stream(seed, name) for seed in range(100) for name in names]

    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**62 for number in numbers)
    assert stream(0, "model") == 2779012397423528214  # another number would change every recorded run
