"""One integer decides all that is random.

The same for every optimizer, another one for another seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimizers import Objective
from suite.training.run_context import build_context
from suite.training.runner import build_task
from suite.training.seeds import stream
from suite.training.warm_up import prepare

Train = Callable[..., Any]

MLP = ("task=mlp", "task.hidden=[8]", "steps=6", "task.eval_every=3", "log_every=1")
STANDING = {  # optimizers that do not move, so that the losses they see tell the batches
    "sgd": ("optimizer=sgd", "optimizer.lr=0"),
    "adam": ("optimizer=adam", "optimizer.lr=0"),
    "kfac": ("optimizer=kfac", "optimizer.lr=0", "optimizer.fallback_lr=0"),
    "muon": ("optimizer=muon", "optimizer.lr=0", "optimizer.fallback_lr=0"),
}


def start(plan: Any) -> list[torch.Tensor]:
    """The parameters a run begins with."""
    context = build_context(plan, build_task(plan, torch.device("cpu")), torch.device("cpu"))
    return list(context.model.parameters())


def test_all_optimizers_begin_with_the_same_weights(planned: Train) -> None:
    starts = [start(planned(*choice, *MLP)) for choice in STANDING.values()]

    for other in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], other, strict=True))


def test_all_optimizers_see_the_same_batches(train: Train) -> None:
    runs = [train(*choice, *MLP) for choice in STANDING.values()]
    losses = [run.column("loss") for run in runs]

    assert len(set(losses[0])) == 6
    assert all(column == losses[0] for column in losses)


def test_the_order_of_the_batches_is_the_seeds(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    original = Objective.on

    def watched(self: Objective, inputs: torch.Tensor, targets: torch.Tensor) -> Objective:
        seen.append(float(inputs.sum()))
        return original(self, inputs, targets)

    monkeypatch.setattr(Objective, "on", watched)
    batches = {}
    for seed in (0, 1):
        train(*STANDING["sgd"], *MLP, f"seed={seed}")
        batches[seed] = seen[-6:]  # those before are the warm-up's
    assert not set(batches[0]) & set(batches[1])


@pytest.mark.parametrize("seed", [1, 2])
def test_another_seed_has_other_weights_and_batches(
    train: Train, planned: Train, seed: int
) -> None:
    choice = (*STANDING["sgd"], *MLP)
    here, elsewhere = start(planned(*choice)), start(planned(*choice, f"seed={seed}"))
    assert not any(torch.equal(a, b) for a, b in zip(here, elsewhere, strict=True) if a.any())

    one, other = train(*choice), train(*choice, f"seed={seed}")
    assert one.directory != other.directory
    assert not set(one.column("loss")) & set(other.column("loss"))
    assert (one.summary["seed"], other.summary["seed"]) == (0, seed)


DROPOUT = (
    "task=char_transformer",
    "task.context=8",
    "task.width=16",
    "task.layers=1",
    "task.dropout=0.3",
    "steps=3",
)


@pytest.mark.parametrize("choice", [("optimizer=kfac", *MLP), ("optimizer=adam", *DROPOUT)])
def test_what_went_before_in_the_process_does_not_matter(
    train: Train, choice: tuple[str, ...]
) -> None:
    first = train(*choice).repeatable_rows
    torch.manual_seed(12345)
    torch.rand(7)
    train("optimizer=adam", "task=quadratic", "steps=3")

    assert train(*choice, "force=true").repeatable_rows == first


def test_a_run_leaves_the_drawing_of_targets_to_a_stream_of_its_own(planned: Train) -> None:
    for seed in (0, 1):
        plan = planned("optimizer=kfac", *MLP, f"seed={seed}")
        context = build_context(plan, build_task(plan, torch.device("cpu")), torch.device("cpu"))
        prepare(context)
        assert context.minibatches.generator.initial_seed() == stream(seed, "optimizer")
        assert torch.initial_seed() == stream(seed, "dropout")
        assert context.state.fresh_drawn == 0


def test_the_streams_of_a_seed_are_apart_and_fixed() -> None:
    names = ("model", "data", "optimizer", "fresh", "dropout")
    numbers = [stream(seed, name) for seed in range(100) for name in names]

    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**62 for number in numbers)
    # another number would change every recorded run
    assert stream(0, "model") == 2779012397423528214
