"""The loss of one mini-batch as a function of the parameters, and its derivatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.errors import UnsupportedError
from optimizers.layers.capture import Captured, capture, merged
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.flat import add_, flatten
from optimizers.objective.cache import CachedEvaluation
from optimizers.objective.curvature import Expansion, ggn_of, hessian_of
from optimizers.objective.examples import example_gradients, require_independent
from optimizers.objective.fisher import layer_scores
from optimizers.objective.gradients import all_reduce_gradients, leave_graph
from optimizers.objective.minibatch import Minibatch
from optimizers.objective.problem import Batch, Observer, Problem
from optimizers.objective.residuals import jacobian_of, residuals_of
from optimizers.objective.step_state import RandomState
from optimizers.phases import phase, phased


@phased("backward")
def _backward(loss: Tensor) -> None:
    loss.backward()


class Objective:
    """The loss of a mini-batch as a function of a model's parameters, with counted oracles.

    `objective()` is a torch closure, so any torch optimizer takes it: `optimizer.step(objective)`.
    Methods that know more ask for more: `value`, `hessian`, `ggn`, `jacobian`, `per_example_grads`,
    `capture`, `sampled`, `fresh`.

    Within one objective, and those derived from it, evaluations are a function: random state
    (dropout) is replayed and running statistics (batch normalisation) move at the first evaluation
    only. Vectors are flat, of shape (n,), in the order of `params`. The loss includes `l2 / 2 *
    |theta|^2`, and so do its gradient and every curvature.

    With `ranks` every process is given the same whole mini-batch and evaluates its share of it.
    Loss, gradient and curvature products are then summed over the processes, residuals and rows of
    examples gathered, so that all answers are those of one process alone to rounding; what
    `capture` and `scores` record is this rank's share, to be summed by `ranks.all_reduce_`. Dropout
    draws other masks on every rank, and batch normalisation sees a rank's share only.

    With `parts` the mini-batch is evaluated in that many slices (of at least an example), one after
    the other, and their gradients are accumulated: memory is that of one slice. Curvature keeps the
    graphs of all of them. Batch normalisation sees a slice at a time, everything else is as for the
    whole mini-batch.

    Args:
        model: the network; its parameters with `requires_grad` are the variables.
        loss_fn: a torch loss, or a module of that convention, called as `loss_fn(outputs,
            targets)`.
        inputs, targets: the mini-batch, the examples along the first dimension.
        l2: the factor of the quadratic regulariser.
        sampler: draws another mini-batch, for `fresh`.
        generator: the source of sampled targets; by default one seeded by the state of torch's
            global generator.
        autocast: run the forward pass in bfloat16 where torch.autocast allows it.
        ranks: the processes that share the work; one alone by default.
        parts: in how many slices a mini-batch is evaluated.
        clip: the largest norm of the gradient that `()` leaves in `.grad`; a longer one is
            shortened to it.
        observer: called with the loss and the flat gradient whenever both are known at the
            parameters themselves.
        counts: where oracle calls are counted; a new counter by default.

    Raises:
        ValueError: the model has no trainable parameter; `parts` is below one.
    """

    __slots__ = ("_batch", "_main", "counts", "inputs", "params")

    def __init__(
        self,
        model: nn.Module,
        loss_fn: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        l2: float = 0.0,
        sampler: Callable[[], Batch] | None = None,
        generator: torch.Generator | None = None,
        autocast: bool = False,
        ranks: SingleProcess = SINGLE_PROCESS,
        parts: int = 1,
        clip: float | None = None,
        observer: Observer | None = None,
        counts: Counter[str] | None = None,
    ) -> None:
        problem = Problem.of(
            model,
            loss_fn,
            l2=l2,
            sampler=sampler,
            generator=generator,
            autocast=autocast,
            ranks=ranks,
            parts=parts,
            clip=clip,
            observer=observer,
            counts=Counter() if counts is None else counts,
        )
        self._begin(Minibatch(problem, inputs, targets, RandomState(problem.device)), main=True)

    def _begin(self, batch: Minibatch, main: bool) -> None:
        self._batch = batch
        self._main = main  # whether this is the step's own mini-batch, which an observer sees
        self.inputs = batch.inputs
        self.params = batch.problem.params
        self.counts = batch.problem.counts

    def _derived(self, batch: Minibatch, main: bool = False) -> Self:
        other = object.__new__(type(self))
        other._begin(batch, main)
        return other

    # -- other mini-batches ------------------------------------------------------------------------

    def on(self, inputs: Tensor, targets: Tensor) -> Self:
        """The same model and loss on the next mini-batch: a new step begins, the counts go on."""
        state = RandomState(self._batch.random_state.device)
        return self._derived(Minibatch(self._batch.problem, inputs, targets, state), main=True)

    def subset(self, index: Tensor) -> Self:
        """The same loss on some of the mini-batch's examples, within the same step.

        A loss that is a sum over examples becomes smaller; the quotient of the two `scale`s says by
        how much. An oracle call on the part counts as the part of a call that its share of the
        examples is.
        """
        return self._derived(self._batch.subset(index))

    def sampled(self) -> Self:
        """The same inputs with targets drawn from the model's own predictive distribution.

        They are drawn at the first evaluation.

        Raises:
            UnsupportedError: the loss is not the negative log-likelihood of a known distribution.
        """
        return self._derived(self._batch.sampled())

    def fresh(self) -> Self:
        """Another mini-batch of the same task, within the same step.

        Raises:
            UnsupportedError: the objective was made without a `sampler`.
        """
        sampler = self._batch.problem.sampler
        if sampler is None:
            raise UnsupportedError(
                "fresh needs an objective with a sampler; pass Objective(..., sampler=...)"
            )
        return self._derived(self._batch.of_step(*sampler(), self._batch.share))

    def joined(self, count: int) -> Self:
        """This mini-batch and `count - 1` fresh ones as one, whose oracle calls count `count`.

        Raises:
            UnsupportedError: the objective was made without a `sampler`.
        """
        others = [self.fresh() for _ in range(count - 1)]
        inputs = torch.cat([self.inputs, *(other.inputs for other in others)])
        targets = torch.cat([self.targets, *(other.targets for other in others)])
        joined = self._batch.of_step(inputs, targets, count * self._batch.share)
        return self._derived(joined, main=self._main)

    # -- what is known of it -----------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The network whose parameters are the variables."""
        return self._batch.problem.model

    @property
    def targets(self) -> Tensor:
        """The targets of the whole mini-batch; those of `sampled` are drawn if they are not yet."""
        return self._batch.all_targets()

    @property
    def ranks(self) -> SingleProcess:
        """The processes that share the work.

        What layers record is summed over them by `ranks.all_reduce_`.
        """
        return self._batch.problem.ranks

    @property
    def l2(self) -> float:
        """The factor of the quadratic regulariser; `l2 I` is its part of every curvature."""
        return self._batch.problem.l2

    @property
    def clip(self) -> float | None:
        """The largest norm of the gradient that a call leaves in `.grad`, if there is a limit."""
        return self._batch.problem.clip

    @property
    def scale(self) -> float:
        """The factor between this loss and the canonical one.

        The canonical loss is summed over outputs and averaged over examples. A damping that is
        multiplied by the scale means the same for any reduction and batch size; 1 for an unknown
        loss.
        """
        return self._batch.scale

    @property
    def terms(self) -> int:
        """The number of log-likelihood terms in the canonical loss: examples, or positions."""
        return self._batch.terms

    # -- values and gradients ----------------------------------------------------------------------

    def __call__(self) -> Tensor:
        """Fill `.grad` of every parameter and return the detached loss."""
        self._begin_gradient()
        batch, losses = self._batch, []
        with torch.enable_grad(), batch.evaluation():
            for part in batch.parts():
                loss = batch.loss(part, batch.forward(part))
                _backward(loss)
                losses.append(loss.detach())
        return self._end_gradient(losses)

    def _begin_gradient(self) -> None:
        self._batch.count_gradient()
        for parameter in self.params:
            parameter.grad = None

    def _end_gradient(self, losses: Sequence[Tensor]) -> Tensor:
        """The loss, given those of the parts; `.grad` becomes the gradient of the whole one."""
        loss = torch.stack(list(losses)).sum() if len(losses) > 1 else losses[0]
        problem = self._batch.problem
        if problem.ranks.size > 1:
            loss = all_reduce_gradients(self.params, problem.ranks, loss.clone())
        if problem.observer is not None and self._main:
            problem.observer(loss, self.gradient())
        if problem.clip is not None and self._main:
            nn.utils.clip_grad_norm_(self.params, problem.clip)
        return loss

    def value(self, step: Tensor | None = None) -> Tensor:
        """The loss, without a graph, at the parameters or at `parameters + step` (flat).

        The parameters are not written: a graph that a curvature keeps stays valid while trial
        points are evaluated.
        """
        batch = self._batch
        batch.count("value")
        with torch.no_grad(), batch.evaluation():
            params = batch.problem.params_at(step)
            losses = [
                batch.loss(part, batch.forward(part, params), params) for part in batch.parts()
            ]
        return batch.problem.summed(*losses)

    def value_and_gradient(self, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss and its flat gradient, at the parameters or at `parameters + step`.

        `.grad` is left alone. At the parameters nothing is computed, and nothing counted, if `move`
        has just been given both for the same mini-batch: a line search that ends on a full batch
        pays for the beginning of the next step.
        """
        if step is None and (cached := self._recalled()) is not None:
            self._observe(cached.loss, cached.gradient)
            return cached.loss, cached.gradient
        batch, pairs = self._batch, []
        batch.count_gradient()
        with torch.enable_grad(), batch.evaluation():
            params = batch.problem.params_at(step)
            variables = (
                self.params if params is None else [part.requires_grad_() for part in params]
            )
            for part in batch.parts():
                loss = batch.loss(part, batch.forward(part, params), params)
                with phase("backward"):
                    gradient = flatten(torch.autograd.grad(loss, variables, materialize_grads=True))
                pairs.append((loss.detach(), gradient))
        loss, gradient = batch.problem.summed_pair(*pairs)
        if step is None:
            self._observe(loss, gradient)
        return loss, gradient

    def move(
        self, step: Tensor, loss: Tensor | None = None, gradient: Tensor | None = None
    ) -> None:
        """Add a flat step to the parameters.

        `loss` and `gradient`, where both are given, are those at the new point. They are cached for
        `value_and_gradient` unless an evaluation draws random numbers or moves running statistics:
        then the next step is another function even on the same mini-batch.
        """
        with torch.no_grad():
            add_(self.params, step)
        problem, targets = self._batch.problem, self._batch.targets
        problem.cached = None
        if loss is None or gradient is None or targets is None:
            return
        if self._batch.repeatable:
            problem.cached = CachedEvaluation(self.inputs, targets, self.params, loss, gradient)

    def gradient(self) -> Tensor:
        """The gradient in `.grad` as one flat vector.

        Parameters the loss does not depend on count as zero.
        """
        return flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.params)

    def attached(self) -> Tensor:
        """The loss with its graph, for a method that runs the backward pass itself.

        Each pass counts as a gradient. Nothing of it is added to `.grad` before, and nothing
        clipped afterwards.

        Raises:
            UnsupportedError: several processes share the work.
        """
        self._require_single_process("attached")
        batch = self._batch
        batch.count("value")
        with torch.enable_grad():
            loss = batch.loss(batch.span, batch.outputs())
        loss.register_hook(lambda _: batch.count("grad"))
        return loss

    @contextmanager
    def differentiable(self) -> Iterator[Callable[[], Tensor]]:
        """A closure like `()` that leaves gradients with their graph in `.grad`.

        They can be differentiated once more; each backward pass through them counts as a Hessian
        product. The graph is dropped when the context ends.

        Raises:
            UnsupportedError: several processes share the work.
        """
        self._require_single_process("differentiable")
        try:
            yield self._leave_graph
        finally:
            for parameter in self.params:
                parameter.grad = None if parameter.grad is None else parameter.grad.detach()

    def _leave_graph(self) -> Tensor:
        self._batch.count_gradient()
        return self._end_gradient([leave_graph(self._batch)])

    def _require_single_process(self, oracle: str) -> None:
        if self.ranks.size > 1:
            raise UnsupportedError(
                f"{oracle} keeps a graph of one process's share of the work; run it in one process"
            )

    # -- curvature ---------------------------------------------------------------------------------

    def hessian(self, once: bool = False) -> Curvature:
        """The Hessian H of the loss.

        Products by differentiating the gradient's graph, which is built once and kept. With `once`
        the first product frees the graph as it goes, which spares memory and its time; there is no
        second.
        """
        self._batch.count_gradient()
        return self._curvature(hessian_of(self._batch, once), "hvp")

    def ggn(self, structural: float = 0.0) -> Curvature:
        """The generalised Gauss-Newton matrix J' H_out J (+ l2 I).

        H_out is the Hessian of the loss by the outputs. J v comes from differentiating u -> J'u
        twice (double backward), which works for every layer that has a double-differentiable
        backward pass, LSTMs included. Positive semi-definite if the loss is convex in the outputs.

        Args:
            structural: the multiple of the mean over examples of J_h'J_h that is added, J_h the
                Jacobian of the hidden states of the recurrent layers (Martens and Sutskever, 2011,
                section 3.2, with a squared distance); like a damping it is meant for the canonical
                loss and scaled to this one.

        Raises:
            UnsupportedError: `structural` is not zero and there is no recurrent layer.
        """
        self._batch.count_gradient()
        return self._curvature(ggn_of(self._batch, structural), "ggnvp")

    def _curvature(self, expansion: Expansion, name: str) -> Curvature:
        """The curvature whose loss, gradient and products are sums over the ranks."""
        problem, (loss, gradient, rows) = self._batch.problem, expansion

        def summed(vectors: Tensor, batched: bool = True) -> Tensor:
            return problem.summed(rows(vectors, batched))

        loss, gradient = problem.summed_pair((loss, gradient))
        self._observe(loss, gradient)
        count = partial(self._batch.count, name)
        return Curvature(loss, gradient, lambda vector: summed(vector, False), summed, count)

    @phased("curvature")
    def jacobian(self) -> tuple[Tensor, Tensor]:
        """Residuals r (m,) and their Jacobian J (m, n): the loss is |r|^2 / 2, its gradient J'r.

        Built from one backward pass of the batch per output where examples are independent, else
        from m backward passes or n double ones, whichever are fewer. The regulariser adds n
        residuals.

        Raises:
            UnsupportedError: the loss is not a mean or sum of squared errors.
            ValueError: outputs and targets differ in shape.
        """
        self._batch.count("value")
        self._batch.count("jac")
        residuals, jacobian = jacobian_of(self._batch)
        if self._watched:
            self._observe(residuals.square().sum() / 2, residuals @ jacobian)
        return residuals, jacobian

    def residuals(self, step: Tensor | None = None) -> Tensor:
        """The residuals r (m,) of `jacobian`, at the parameters or at `parameters + step`.

        The loss is |r|^2 / 2.

        Raises:
            UnsupportedError, ValueError: as `jacobian`.
        """
        self._batch.count("value")
        return residuals_of(self._batch, step)

    @phased("curvature")
    def per_example_grads(self) -> Tensor:
        """One gradient per example, (N, n); the mean over the rows is the gradient of the loss.

        A loss of one's own is taken to be a mean over examples unless its `reduction` is `sum`.

        Raises:
            UnsupportedError: the examples are coupled and have no gradients of their own: by batch
                normalisation that uses the batch's statistics, or by a mean that is weighted by the
                targets.
        """
        problem = self._batch.problem
        require_independent(problem)
        self.counts["examples"] += len(self.inputs)
        rows = problem.ranks.all_gather(example_gradients(self._batch))
        if getattr(problem.loss_fn, "reduction", "mean") == "sum":
            rows = rows * len(self.inputs)
        return rows + problem.l2 * flatten(self.params).detach()

    # -- layers ------------------------------------------------------------------------------------

    def capture(
        self, kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv2d)
    ) -> AbstractContextManager[Captured]:
        """Record inputs and output gradients of the layers of these kinds inside the `with`."""
        return capture(self.model, kinds)

    def scores(
        self,
        kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv2d),
        fisher: str = "sampled",
        gradient: bool = True,
    ) -> tuple[Tensor, list[Captured]]:
        """The loss, and what layers see in one forward pass with a Fisher matrix's targets.

        The targets share the forward pass, and only the layers' outputs are differentiated: a
        backward pass for each of them is all that this adds to a gradient.

        Args:
            kinds: the types of layers.
            fisher: `sampled` (targets drawn from the model: one pass), `exact` (a pass per output,
                with output gradients s_c / M that have sum_c s_c s_c' = the Hessian of each of the
                loss's M terms) or `empirical` (the true targets).
            gradient: whether `.grad` is filled as by `()`.

        Raises:
            UnsupportedError: the loss is not the negative log-likelihood of a known distribution.
        """
        problem = self._batch.problem
        if fisher != "empirical":
            problem.known_family("scores")
        if gradient:
            self._begin_gradient()
        else:
            self._batch.count("value")
        losses, records = layer_scores(self._batch, kinds, fisher, gradient)
        self._batch.count("grad", len(records[0]) - (gradient and fisher == "empirical"))
        loss = self._end_gradient(losses) if gradient else problem.summed(*losses)
        return loss, [merged(parts) for parts in zip(*records, strict=True)]

    # -- what is remembered and reported -----------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the cached evaluation at the parameters, for a checkpoint."""
        cached = self._batch.problem.cached
        state = None if cached is None else cached.state_dict()
        return {"counts": dict(self.counts), "known": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the model's parameters have to be restored before."""
        self.counts.clear()
        self.counts.update(state["counts"])
        known = state["known"]
        self._batch.problem.cached = (
            None if known is None else CachedEvaluation.restored(known, self.params)
        )

    def _recalled(self) -> CachedEvaluation | None:
        cached, targets = self._batch.problem.cached, self._batch.targets
        if cached is None or targets is None:
            return None
        return cached if cached.holds(self.inputs, targets, self.params) else None

    @property
    def _watched(self) -> bool:
        return self._main and self._batch.problem.observer is not None

    def _observe(self, loss: Tensor, gradient: Tensor) -> None:
        if self._main and self._batch.problem.observer is not None:
            self._batch.problem.observer(loss, gradient)
