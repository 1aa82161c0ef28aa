"""Processes that train one model, each on its share of every mini-batch (data parallelism)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# its defaults name the group of all: imported after that is made, they keep it
import torch.distributed.nn.functional
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten, unflatten

T = TypeVar("T")
GLANCE = timedelta(seconds=1)  # the length of one wait for a collective on the CPU


class RankLostError(RuntimeError):
    """A collective did not come to its end: another process has gone, or does not answer."""


class SingleProcess:
    """One process: every sum over the ranks is the tensor itself."""

    rank: int = 0
    size: int = 1
    lost: bool = False

    def share(self, count: int) -> slice:
        """Which of a mini-batch's `count` examples are this rank's."""
        return slice(0, count)

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; every rank gets the same bits."""

    def broadcast_(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Replace each tensor by that of the rank `source`."""

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks in order, (sum of N_r, ...).

        The ranks may have different numbers of them.
        """
        return rows

    def all_reduce_max(self, numbers: Sequence[float]) -> list[float]:
        """The largest value of each number over the ranks."""
        return list(numbers)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every rank; anything that can be pickled."""
        return value


class ProcessGroup(SingleProcess):
    """The processes of a torch.distributed group.

    All of them make the same calls in the same order. Shares are contiguous and differ by one
    example at most, as `torch.tensor_split` makes them. Tensors of a call travel together, in one
    message for each type of number.

    Args:
        group: a process group; all processes by default. Numbers and words travel by the CPU, so a
            group of GPUs is made with the backends `cpu:gloo,cuda:nccl`.
        glance: called about once a second while a collective on the CPU waits for the others; what
            it raises ends the wait. Signal handlers run at these moments, too.

    Raises:
        RankLostError: by every method, if a process of the group has ended or does not answer
            within its timeout.

    Attributes:
        lost: whether that has happened; the group is of no use then, and torch waits for its
            timeout to take it down.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, glance: Callable[[], None] | None = None
    ) -> None:
        self.group = group
        self.glance = glance
        self.lost = False
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def share(self, count: int) -> slice:
        """The contiguous share of this rank."""
        if count < self.size:
            raise UnsupportedError(
                f"{count} example{'s' if count != 1 else ''} cannot be shared out over {self.size} "
                "ranks; take a larger batch or fewer processes"
            )
        return cut(slice(0, count), self.size)[self.rank]

    @torch.no_grad()
    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the ranks, in one message for each type."""
        for bucket in _by_type(tensors):
            flat = flatten(bucket)
            self._wait_for(flat, partial(dist.all_reduce, flat, group=self.group, async_op=True))
            _fill(bucket, flat)

    @torch.no_grad()
    def broadcast_(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Copy each tensor from the rank `source`, in one message for each type."""
        for bucket in _by_type(tensors):
            flat = flatten(bucket)
            self._wait_for(
                flat,
                partial(dist.broadcast, flat, group=self.group, group_src=source, async_op=True),
            )
            _fill(bucket, flat)

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, padded to one length on their way."""
        counts = torch.zeros(self.size, dtype=torch.long)
        counts[self.rank] = len(rows)
        self.all_reduce_([counts])
        most = int(counts.max())
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._wait_for(
            padded, partial(dist.all_gather, parts, padded, group=self.group, async_op=True)
        )
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def all_reduce_max(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number, in float64 by the CPU."""
        values = torch.tensor(numbers, dtype=torch.float64)
        maximum = dist.ReduceOp.MAX
        self._wait_for(
            values, partial(dist.all_reduce, values, maximum, group=self.group, async_op=True)
        )
        return [float(value) for value in values]

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, pickled, by the CPU."""
        objects: list[Any] = [value]
        # a first short message: the pickled one has a wait of its own
        length = torch.zeros(1, dtype=torch.long)
        self.broadcast_([length])
        try:
            dist.broadcast_object_list(
                objects, group=self.group, group_src=0, device=torch.device("cpu")
            )
        except RuntimeError as error:
            raise self._lost(error) from error
        result: T = objects[0]
        return result

    def _wait_for(self, tensor: Tensor, begin: Callable[[], Any]) -> None:
        """Run a collective; on the CPU in short waits, so that signals reach their handlers."""
        try:
            work = begin()
            if tensor.device.type != "cpu":
                work.wait()
                return
            while not self._waited(work):
                if self.glance is not None:
                    self.glance()
        except RuntimeError as error:
            raise self._lost(error) from error

    @staticmethod
    def _waited(work: Any) -> bool:
        try:
            work.wait(GLANCE)
        except RuntimeError:
            if work.is_completed():  # the group's own timeout, or a process that is gone
                raise
            return False
        return True

    def _lost(self, error: RuntimeError) -> RuntimeError:
        self.lost = True
        if isinstance(error, RankLostError):
            return error
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
        return RankLostError(
            f"one of the {self.size} ranks has ended or does not answer ({reason})"
        )


SINGLE_PROCESS = SingleProcess()


def cut(whole: slice, parts: int) -> list[slice]:
    """Split a range into contiguous parts that differ by one at most, the longer ones first."""
    size, longer = divmod(whole.stop - whole.start, parts)
    ends = [whole.start + number * size + min(number, longer) for number in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors, those of one type and device together, in an order that all ranks share."""
    buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        buckets.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(buckets.values())


def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, unflatten(flat, tensors), strict=True):
        tensor.copy_(part)
