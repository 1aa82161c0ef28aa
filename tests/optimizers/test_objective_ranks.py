"""Two processes with a share of the mini-batch each are one process with the whole of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizers.distributed import SINGLE_PROCESS, cut
from optimizers.linalg.flat import flatten
from tests.optimizers import two_ranks
from tests.optimizers.cases import LOSSES, close
from tests.optimizers.ranks import results_of_ranks


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the two processes."""
    return results_of_ranks(two_ranks.work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return two_ranks.alone()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("answers", name) for name in two_ranks.PROBLEMS),
        *(("in parts", name) for name in two_ranks.IN_PARTS),
    ],
)
def test_every_answer_is_that_of_one_process(
    both: list[dict[str, Any]], alone: dict[str, Any], kind: str, name: str
) -> None:
    expected = {
        key: value for key, value in alone["answers"].items() if key.startswith(f"{name}, ")
    }
    assert len(expected) >= 15
    for key, value in expected.items():
        assert bool(value.isfinite().all()), key
        for answers in both:
            close(answers[kind][key], value, 1e-12)


@pytest.mark.parametrize("name", two_ranks.METHODS)
def test_ten_steps_are_those_of_one_process(
    both: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    first, second = (answers["trained"] for answers in both)
    assert torch.equal(first[f"{name} parameters"], second[f"{name} parameters"])
    close(first[f"{name} parameters"], alone["trained"][f"{name} parameters"], 1e-6)
    close(first[f"{name} losses"], alone["trained"][f"{name} losses"], 1e-6)
    assert torch.equal(first[f"{name} counts"], second[f"{name} counts"])
    # CG may end an iteration apart
    close(first[f"{name} counts"], alone["trained"][f"{name} counts"], 0.02)
    start = flatten(LOSSES[two_ranks.METHODS[name][1]]().params).detach()
    assert float((first[f"{name} parameters"] - start).norm()) > 1e-2


def test_a_parameter_that_no_rank_uses_has_no_gradient(both: list[dict[str, Any]]) -> None:
    for answers in both:
        # 2 * 3^2 / 4
        close(answers["without gradients"]["sometimes"], torch.full((2,), 4.5).double())
        assert bool(answers["without gradients"]["never is None"])


def test_the_groups_operations(both: list[dict[str, Any]]) -> None:
    for answers in both:
        exchanged = answers["exchanged"]
        assert exchanged["sums"].tolist() == [3.0] * 8
        assert exchanged["of the second"].tolist() == [1.0, 1.0]
        assert exchanged["all_gather"].tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        assert exchanged["all_reduce_max"].tolist() == [1.0, 0.0]
        assert int(exchanged["broadcast_object"]) == 5
        assert exchanged["shares"].tolist() == [[0, 4], [4, 7]]


def test_the_whole_gradient_is_clipped_and_no_other(
    both: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    unclipped = LOSSES["mlp_ce_sum"]().objective(0.3)
    unclipped()
    for answers in (*both, alone):
        close(answers["clipped"]["norm"], torch.tensor(0.1).double(), 1e-4)
        close(
            answers["clipped"]["direction"],
            0.1 * unclipped.gradient() / unclipped.gradient().norm(),
            1e-4,
        )
        assert float(answers["clipped"]["another's norm"]) > 0.2


def test_a_batch_with_less_examples_than_ranks_is_refused_by_all(
    both: list[dict[str, Any]],
) -> None:
    for answers in both:
        assert answers["refused"].startswith("1 example cannot be shared out over 2 ranks")


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (6, 3), (5, 5), (1, 1), (100, 7)])
def test_shares_are_those_of_tensor_split(count: int, parts: int) -> None:
    numbers = torch.arange(3, 3 + count)
    expected = [part.tolist() for part in numbers.tensor_split(parts)]
    assert [
        list(range(part.start, part.stop)) for part in cut(slice(3, 3 + count), parts)
    ] == expected


def test_one_process_alone_has_everything() -> None:
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.size, SINGLE_PROCESS.share(5)) == (
        0,
        1,
        slice(0, 5),
    )
    rows = torch.randn(3, 2)
    SINGLE_PROCESS.all_reduce_([rows])
    assert SINGLE_PROCESS.all_gather(rows) is rows
    assert SINGLE_PROCESS.all_reduce_max((1, -2.5)) == [1, -2.5]
    assert SINGLE_PROCESS.broadcast_object("word") == "word"
