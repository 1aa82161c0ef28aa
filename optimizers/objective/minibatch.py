"""How the loss of a mini-batch is evaluated.

Rank by rank, slice by slice, as one function throughout a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from optimizers.distributed import SingleProcess, cut
from optimizers.linalg.flat import unflatten
from optimizers.objective.jacobian import outputs_at
from optimizers.objective.likelihoods import require_family
from optimizers.objective.step_state import Moment, Problem, share_of, twice_differentiable
from optimizers.phases import phased


class Evaluating:
    """One mini-batch of a problem, and its loss as the sum of what its slices add."""

    __slots__ = (
        "_drawn",
        "_main",
        "_moment",
        "_noise",
        "_outputs_shape",
        "_problem",
        "_share",
        "_targets",
        "counts",
        "inputs",
        "params",
    )

    def _begin(
        self,
        problem: Problem,
        inputs: Tensor,
        targets: Tensor | None,
        moment: Moment,
        main: bool,
        share: float = 1.0,
    ) -> None:
        self._problem = problem
        self._main = main
        self._share = share
        self._moment = moment
        self._targets = targets
        self._drawn: Tensor | None = None  # targets of this rank, as far as they have been sampled
        self._noise: Tensor | None = None
        self._outputs_shape: torch.Size | None = None
        self.inputs = inputs
        self.params = problem.params
        self.counts = problem.counts

    def _derived(
        self,
        inputs: Tensor,
        targets: Tensor | None,
        moment: Moment,
        main: bool = False,
        share: float | None = None,
    ) -> Self:
        other = object.__new__(type(self))
        other._begin(
            self._problem, inputs, targets, moment, main, self._share if share is None else share
        )
        return other

    @property
    def model(self) -> nn.Module:
        """The network whose parameters are the variables."""
        return self._problem.model

    @property
    def ranks(self) -> SingleProcess:
        """The processes that share the work.

        What layers record is summed over them by `ranks.all_reduce_`.
        """
        return self._problem.ranks

    @property
    def l2(self) -> float:
        """The factor of the quadratic regulariser; `l2 I` is its part of every curvature."""
        return self._problem.l2

    @property
    def clip(self) -> float | None:
        """The largest norm of the gradient that a call leaves in `.grad`, if there is a limit."""
        return self._problem.clip

    @property
    def scale(self) -> float:
        """The factor between this loss and the canonical one (summed over outputs, averaged over examples).

        A damping that is multiplied by it means the same for any reduction and batch size; 1 for an
        unknown loss.
        """
        family = self._problem.family
        return 1.0 if family is None else family.scale(self._output_like())

    @property
    def terms(self) -> int:
        """The number of log-likelihood terms the canonical loss is a mean over.

        Examples, or positions of sequences.
        """
        family = self._problem.family
        return len(self.inputs) if family is None else family.terms(self._output_like())

    # -- how an evaluation is made -----------------------------------------------------------------

    # The loss of the mini-batch is the sum of what the ranks, and on each of them the parts, give
    # for their slices.

    @property
    def _span(self) -> slice:
        """This rank's share of the mini-batch."""
        return self._problem.ranks.share(len(self.inputs))

    def _parts(self) -> list[slice]:
        """The slices of this rank's share, in the order in which they are evaluated."""
        span, parts = self._span, self._problem.parts
        return [span] if parts == 1 else cut(span, min(parts, span.stop - span.start))

    def _cut(self, whole: Tensor, part: slice) -> Tensor:
        return whole if self._all(part) else whole[part]

    def _all(self, part: slice) -> bool:
        return bool(part.stop - part.start == len(self.inputs))

    def _evaluation(self) -> AbstractContextManager[None]:
        return self._moment.evaluation(self._problem.norms)

    @phased("forward")
    def _loss(self, part: slice, outputs: Tensor, params: list[Tensor] | None = None) -> Tensor:
        """What a part adds to the loss.

        The last one of the share adds this rank's part of the regulariser.
        """
        loss = self._data_loss(outputs, part)
        if not self._problem.l2 or part.stop != self._span.stop:
            return loss
        return loss + self._regulariser(params or self.params)

    def _outputs(self, params: list[Tensor] | None = None) -> Tensor:
        """The outputs of this rank's share."""
        with self._evaluation():
            found = [self._forward(part, params) for part in self._parts()]
        return found[0] if len(found) == 1 else torch.cat(found)

    @phased("forward")
    def _forward(self, part: slice, params: list[Tensor] | None = None) -> Tensor:
        problem, inputs = self._problem, self._cut(self.inputs, part)
        precision = (
            torch.autocast(self._moment.device.type, torch.bfloat16)
            if problem.autocast
            else nullcontext()
        )
        with precision:
            outputs: Tensor = (
                problem.model(inputs) if params is None else self._forward_at(inputs, params)
            )
        self._outputs_shape = outputs.shape if self._all(part) else self._shape_of_all(outputs)
        return outputs.to(self.params[0].dtype) if problem.autocast else outputs

    def _forward_at(self, inputs: Tensor, params: list[Tensor]) -> Tensor:
        problem = self._problem
        outputs = outputs_at(problem.model, dict(zip(problem.names, params, strict=True)), inputs)
        for layer in problem.recurrent:  # they hold on to the parameters of their last call
            layer._update_flat_weights()
        return outputs

    @phased("forward")
    def _data_loss(self, outputs: Tensor, part: slice) -> Tensor:
        loss_fn, targets = self._problem.loss_fn, self._resolved_targets(outputs, part)
        loss: Tensor = loss_fn(outputs, targets)
        if self._all(part):
            return loss
        weight = share_of(loss_fn, self._targets, part, len(self.inputs))
        return (
            weight * loss if weight else (0 * outputs).sum()
        )  # the mean over no term at all is not a number

    def _regulariser(self, params: Sequence[Tensor]) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in params])
        return self._own_l2 / 2 * squares.sum()

    @property
    def _own_l2(self) -> float:
        return self._problem.l2 / self._problem.ranks.size

    def _summed(self, *values: Tensor) -> Tensor:
        """The sum of the parts' values, over the ranks."""
        total = values[0] if len(values) == 1 else torch.stack(values).sum(0)
        if self._problem.ranks.size > 1:
            total = total.detach().clone()
            self._problem.ranks.all_reduce_([total])
        return total

    def _summed_pair(self, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The sums of the parts' losses and gradients, over the ranks, in one message."""
        if len(pairs) == 1 and self._problem.ranks.size == 1:
            return pairs[0]
        loss, gradient = (torch.stack(values).sum(0) for values in zip(*pairs, strict=True))
        self._problem.ranks.all_reduce_([loss, gradient])
        return loss, gradient

    def _resolved_targets(self, outputs: Tensor, part: slice) -> Tensor:
        """The targets of a part.

        Those that are to be sampled are so when the part is first evaluated.
        """
        if self._targets is not None:
            return self._cut(self._targets, part)
        first, end = part.start - self._span.start, part.stop - self._span.start
        if self._drawn is None or len(self._drawn) < end:
            drawn = self._sample(outputs.detach(), first, end)
            self._drawn = drawn if self._drawn is None else torch.cat([self._drawn, drawn])
        if len(self._drawn) == len(self.inputs):
            self._targets = self._drawn
        return self._drawn[first:end]

    def _sample(self, outputs: Tensor, first: int, end: int) -> Tensor:
        """Draw targets for a part.

        The noise is drawn for the whole mini-batch at once, on every rank the same.
        """
        problem = self._problem
        family = require_family(problem.family, problem.loss_fn, "sampled")
        if self._noise is None:
            whole = outputs[:1].expand(self._shape_of_all(outputs))
            self._noise = family.noise(whole, problem.generator)[self._span]
        return family.sample(outputs, self._noise[first:end])

    def _shape_of_all(self, outputs: Tensor) -> torch.Size:
        """The shape of the whole mini-batch's outputs, given some of them."""
        return torch.Size((len(self.inputs), *outputs.shape[1:]))

    def _known_targets(self) -> Tensor:
        """The targets of the whole mini-batch."""
        if self._targets is None:
            if self._drawn is None:
                with torch.no_grad():
                    self._count("value")
                    self._resolved_targets(self._outputs(), self._span)
            assert self._drawn is not None
            self._targets = self._problem.ranks.all_gather(self._drawn)
        return self._targets

    def _params_at(self, step: Tensor | None) -> list[Tensor] | None:
        if step is None:
            return None
        return [
            p.detach() + d for p, d in zip(self.params, unflatten(step, self.params), strict=True)
        ]

    def _differentiable_kernels(self) -> AbstractContextManager[None]:
        """Attention and recurrent kernels that can be differentiated twice (the fast ones cannot)."""
        return twice_differentiable(
            plain_rnn=bool(self._problem.recurrent) and self._moment.device.type == "cuda"
        )

    def _count(self, name: str, calls: int = 1) -> None:
        """Count oracle calls; one on a part of the mini-batch counts as that part."""
        self.counts[name] += calls if self._share == 1 else calls * self._share  # type: ignore[assignment]

    def _count_gradient(self) -> None:
        self._count("value")
        self._count("grad")

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self.params)

    def _output_like(self) -> Tensor:
        if self._outputs_shape is None:
            raise RuntimeError(
                "scale and terms are known once the objective has been evaluated; call it first"
            )
        return torch.empty(self._outputs_shape, device="meta")
