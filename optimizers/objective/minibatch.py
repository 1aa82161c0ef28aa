"""One mini-batch, and its loss as the sum of the parts that ranks and slices add."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from optimizers.distributed import cut
from optimizers.objective.problem import Problem, share_of
from optimizers.objective.step_state import RandomState
from optimizers.phases import phased


class Minibatch:
    """The examples of a mini-batch, and the loss of a problem on them.

    The loss is the sum of what the ranks, and on each of them the parts, give for their slices.

    Attributes:
        problem: the model with its loss.
        inputs: the examples, along the first dimension.
        targets: theirs; None while they are still to be sampled.
        random_state: that of the step's evaluations.
        share: how much of an oracle call a call on this mini-batch counts as.
    """

    __slots__ = (
        "_drawn",
        "_noise",
        "_outputs_shape",
        "inputs",
        "problem",
        "random_state",
        "share",
        "targets",
    )

    def __init__(
        self,
        problem: Problem,
        inputs: Tensor,
        targets: Tensor | None,
        random_state: RandomState,
        share: float = 1.0,
    ) -> None:
        self.problem = problem
        self.inputs = inputs
        self.targets = targets
        self.random_state = random_state
        self.share = share
        self._drawn: Tensor | None = None  # targets of this rank, as far as they have been sampled
        self._noise: Tensor | None = None
        self._outputs_shape: torch.Size | None = None

    # -- other mini-batches of the same step -------------------------------------------------------

    def of_step(self, inputs: Tensor, targets: Tensor | None, share: float) -> Minibatch:
        """Other examples, or other targets, in the same random state."""
        return Minibatch(self.problem, inputs, targets, self.random_state, share)

    def sampled(self) -> Minibatch:
        """The same inputs with targets drawn from the model's own predictive distribution."""
        self.problem.known_family("sampled")
        return self.of_step(self.inputs, None, self.share)

    def subset(self, index: Tensor) -> Minibatch:
        """Some of the examples."""
        inputs = self.inputs[index]
        share = self.share * len(inputs) / len(self.inputs)
        part = self.of_step(inputs, self.all_targets()[index], share)
        if self._outputs_shape is not None:
            part._outputs_shape = torch.Size((len(part.inputs), *self._outputs_shape[1:]))
        return part

    # -- slices ------------------------------------------------------------------------------------

    @property
    def span(self) -> slice:
        """This rank's share of the mini-batch."""
        return self.problem.ranks.share(len(self.inputs))

    def parts(self) -> list[slice]:
        """The slices of this rank's share, in the order in which they are evaluated."""
        span, parts = self.problem.ranks.share(len(self.inputs)), self.problem.parts
        return [span] if parts == 1 else cut(span, min(parts, span.stop - span.start))

    def cut(self, whole: Tensor, part: slice) -> Tensor:
        """A part of a tensor of all examples."""
        return whole if self._is_all(part) else whole[part]

    def own_inputs(self) -> Tensor:
        """The inputs of this rank's share."""
        return self.cut(self.inputs, self.span)

    def _is_all(self, part: slice) -> bool:
        return part.stop - part.start == len(self.inputs)  # type: ignore[no-any-return]

    # -- evaluation --------------------------------------------------------------------------------

    def evaluation(self) -> AbstractContextManager[None]:
        """The context of one evaluation of all parts in their order."""
        return self.random_state.evaluation(self.problem.norms)

    def outputs(self, params: list[Tensor] | None = None) -> Tensor:
        """The outputs of this rank's share."""
        with self.evaluation():
            outputs = [self.forward(part, params) for part in self.parts()]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @phased("forward")
    def forward(self, part: slice, params: list[Tensor] | None = None) -> Tensor:
        """The outputs of a part, at other parameters where there are some."""
        whole = self._is_all(part)
        inputs = self.inputs if whole else self.inputs[part]
        outputs = self.problem.outputs(inputs, params)
        self._outputs_shape = outputs.shape if whole else self._shape_of_all(outputs)
        return outputs

    @phased("forward")
    def loss(self, part: slice, outputs: Tensor, params: list[Tensor] | None = None) -> Tensor:
        """What a part adds to the loss; the last one adds this rank's part of the regulariser."""
        loss = self._data_loss(outputs, part)
        if not self.problem.l2 or part.stop != self.span.stop:
            return loss
        return loss + self.problem.regulariser(params or self.problem.params)

    @phased("forward")
    def data_loss(self, outputs: Tensor, part: slice) -> Tensor:
        """What a part adds to the loss without the regulariser."""
        return self._data_loss(outputs, part)

    def _data_loss(self, outputs: Tensor, part: slice) -> Tensor:
        loss_fn, whole = self.problem.loss_fn, self._is_all(part)
        known = whole and self.targets is not None
        loss: Tensor = loss_fn(outputs, self.targets if known else self.targets_of(outputs, part))
        if whole:
            return loss
        weight = share_of(loss_fn, self.targets, part, len(self.inputs))
        if not weight:  # the mean over no term at all is not a number
            return (0 * outputs).sum()
        return weight * loss

    # -- targets -----------------------------------------------------------------------------------

    def targets_of(self, outputs: Tensor, part: slice) -> Tensor:
        """The targets of a part, sampled when the part is first evaluated."""
        if self.targets is not None:
            return self.cut(self.targets, part)
        span = self.span
        first, end = part.start - span.start, part.stop - span.start
        if self._drawn is None or len(self._drawn) < end:
            drawn = self._sample(outputs.detach(), first, end)
            self._drawn = drawn if self._drawn is None else torch.cat([self._drawn, drawn])
        if len(self._drawn) == len(self.inputs):
            self.targets = self._drawn
        return self._drawn[first:end]

    def all_targets(self) -> Tensor:
        """The targets of the whole mini-batch, sampled now where they are not known yet."""
        if self.targets is None:
            if self._drawn is None:
                with torch.no_grad():
                    self.count("value")
                    self.targets_of(self.outputs(), self.span)
            assert self._drawn is not None
            self.targets = self.problem.ranks.all_gather(self._drawn)
        return self.targets

    def _sample(self, outputs: Tensor, first: int, end: int) -> Tensor:
        """Draw targets for a part; the noise is drawn for the whole mini-batch on every rank."""
        family = self.problem.known_family("sampled")
        if self._noise is None:
            whole = outputs[:1].expand(self._shape_of_all(outputs))
            self._noise = family.noise(whole, self.problem.generator)[self.span]
        return family.sample(outputs, self._noise[first:end])

    # -- what is known of it -----------------------------------------------------------------------

    @property
    def scale(self) -> float:
        """The factor between this loss and the canonical one; 1 for an unknown loss."""
        family = self.problem.family
        return 1.0 if family is None else family.scale(self.output_like())

    @property
    def terms(self) -> int:
        """The number of log-likelihood terms the canonical loss is a mean over."""
        family = self.problem.family
        return len(self.inputs) if family is None else family.terms(self.output_like())

    @property
    def repeatable(self) -> bool:
        """Whether the same mini-batch would be the same function in the next step."""
        norms = self.problem.norms
        moving = any(norm.training and norm.track_running_stats for norm in norms)
        return not moving and not self.random_state.random

    def output_like(self) -> Tensor:
        """A tensor without content in the shape of all outputs.

        Raises:
            RuntimeError: nothing has been evaluated yet.
        """
        if self._outputs_shape is None:
            raise RuntimeError(
                "scale and terms are known once the objective has been evaluated; call it first"
            )
        return torch.empty(self._outputs_shape, device="meta")

    def _shape_of_all(self, outputs: Tensor) -> torch.Size:
        """The shape of the whole mini-batch's outputs, given some of them."""
        return torch.Size((len(self.inputs), *outputs.shape[1:]))

    def count(self, oracle: str, calls: int = 1) -> None:
        """Count oracle calls; one on a part of a mini-batch counts as that part."""
        counts = self.problem.counts
        counts[oracle] += calls if self.share == 1 else calls * self.share  # type: ignore[assignment]

    def count_gradient(self) -> None:
        """Count a loss with its gradient."""
        counts: Counter[str] = self.problem.counts
        calls: Any = 1 if self.share == 1 else self.share
        counts["value"] += calls
        counts["grad"] += calls
