"""The loss of one mini-batch as a function of the parameters, and every derivative an optimizer may ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.func import grad, vmap
from torch.nn.modules.batchnorm import _NormBase

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.errors import UnsupportedError
from optimizers.layers.capture import (
    Captured,
    capture,
    edges_of,
    hidden_states,
    merged,
    passes,
    settled,
)
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.flat import add_, flatten, unflatten
from optimizers.objective.cache import Known
from optimizers.objective.jacobian import (
    jacobian_by_examples,
    jacobian_by_graph,
    outputs_at,
    pullback,
)
from optimizers.objective.likelihoods import Gaussian, family_of, require_family
from optimizers.objective.minibatch import Evaluating
from optimizers.objective.step_state import (
    Batch,
    Moment,
    Observer,
    Problem,
    couples,
    held_statistics,
    weighted_mean,
)
from optimizers.phases import phase, phased


class Objective(Evaluating):
    """The loss of a mini-batch as a function of a model's trainable parameters, with counted oracles.

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
    `capture` and `scores` record is this rank's share, to be summed by `ranks.all_reduce_`. Dropout draws
    other masks on every rank, and batch normalisation sees a rank's share only.

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

    __slots__ = ()

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
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True")
        if parts < 1:
            raise ValueError(f"parts must be at least 1, got {parts}")
        params = [parameter for _, parameter in named]
        device = params[0].device
        if generator is None:
            with torch.random.fork_rng(devices=[]):
                generator = torch.Generator(device).manual_seed(
                    ranks.broadcast_object(int(torch.randint(2**62, ())))
                )
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        problem = Problem(
            model,
            loss_fn,
            family_of(loss_fn),
            [name for name, _ in named],
            params,
            norms,
            [module for module in model.modules() if isinstance(module, nn.RNNBase)],
            l2,
            autocast,
            sampler,
            generator,
            ranks,
            parts,
            clip,
            observer,
            counts=Counter() if counts is None else counts,
        )
        self._begin(problem, inputs, targets, Moment(device), main=True)

    def on(self, inputs: Tensor, targets: Tensor) -> Self:
        """The same model and loss on the next mini-batch: a new step begins, the counts go on."""
        return self._derived(inputs, targets, Moment(self._moment.device), main=True, share=1.0)

    def subset(self, index: Tensor) -> Self:
        """The same loss on some of the mini-batch's examples, within the same step.

        A loss that is a sum over examples becomes smaller; the quotient of the two `scale`s says by
        how much. An oracle call on the part counts as the part of a call that its share of the
        examples is.
        """
        inputs = self.inputs[index]
        share = self._share * len(inputs) / len(self.inputs)
        part = self._derived(inputs, self._known_targets()[index], self._moment, share=share)
        if self._outputs_shape is not None:
            part._outputs_shape = torch.Size((len(part.inputs), *self._outputs_shape[1:]))
        return part

    # -- values and gradients ----------------------------------------------------------------------

    def __call__(self) -> Tensor:
        """Fill `.grad` of every parameter and return the detached loss."""
        self._begin_gradient()
        losses = []
        with torch.enable_grad(), self._evaluation():
            for part in self._parts():
                loss = self._loss(part, self._forward(part))
                with phase("backward"):
                    loss.backward()
                losses.append(loss.detach())
        return self._end_gradient(losses)

    def _begin_gradient(self) -> None:
        self._count_gradient()
        for parameter in self.params:
            parameter.grad = None

    @phased("backward")
    def _add_gradient(
        self, loss: Tensor, edges: Sequence[GradientEdge], keep: bool
    ) -> Sequence[Tensor | None]:
        """Add to `.grad` of every parameter by one backward pass, and return the gradients at the edges."""
        if not edges:
            loss.backward(retain_graph=keep)
            return ()
        wanted: Any = [*self.params, *edges]
        found: Sequence[Tensor | None] = torch.autograd.grad(
            loss, wanted, retain_graph=keep, allow_unused=True
        )
        for parameter, gradient in zip(self.params, found, strict=False):
            parameter.grad = (
                gradient
                if parameter.grad is None or gradient is None
                else parameter.grad + gradient
            )
        return found[len(self.params) :]

    def _end_gradient(self, losses: Sequence[Tensor]) -> Tensor:
        """The loss, given those of the parts.

        `.grad` becomes the gradient of the whole mini-batch's.
        """
        loss = torch.stack(list(losses)).sum() if len(losses) > 1 else losses[0]
        if self._problem.ranks.size > 1:
            loss = self._sum_gradients(loss.clone())
        if self._watched:
            self._observe(loss, self.gradient())
        if self._problem.clip is not None and self._main:
            nn.utils.clip_grad_norm_(self.params, self._problem.clip)
        return loss

    def _sum_gradients(self, loss: Tensor) -> Tensor:
        """Sum the loss and `.grad` over the ranks.

        A parameter that no rank's loss depends on still has none.
        """
        present = torch.tensor(
            [p.grad is not None for p in self.params], dtype=torch.float32, device=loss.device
        )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        self._problem.ranks.all_reduce_([loss, present, *gradients])
        for parameter, gradient, seen in zip(self.params, gradients, present.tolist(), strict=True):
            parameter.grad = gradient if seen else None
        return loss

    def value(self, step: Tensor | None = None) -> Tensor:
        """The loss, without a graph, at the parameters or at `parameters + step` (flat).

        The parameters are not written: a graph that a curvature keeps stays valid while trial
        points are evaluated.
        """
        self._count("value")
        with torch.no_grad(), self._evaluation():
            params = self._params_at(step)
            losses = [
                self._loss(part, self._forward(part, params), params) for part in self._parts()
            ]
        return self._summed(*losses)

    def value_and_gradient(self, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss and its flat gradient, at the parameters or at `parameters + step`.

        `.grad` is left alone.

        At the parameters nothing is computed, and nothing counted, if `move` has just been told
        both for the same mini-batch: a line search that ends on a full batch pays for the beginning
        of the next step.
        """
        if step is None and (known := self._recalled()) is not None:
            self._observe(known.loss, known.gradient)
            return known.loss, known.gradient
        self._count_gradient()
        found = []
        with torch.enable_grad(), self._evaluation():
            params = self._params_at(step)
            variables = (
                self.params if params is None else [part.requires_grad_() for part in params]
            )
            for part in self._parts():
                loss = self._loss(part, self._forward(part, params), params)
                with phase("backward"):
                    gradient = flatten(torch.autograd.grad(loss, variables, materialize_grads=True))
                found.append((loss.detach(), gradient))
        loss, gradient = self._summed_pair(*found)
        if step is None:
            self._observe(loss, gradient)
        return loss, gradient

    def move(
        self, step: Tensor, loss: Tensor | None = None, gradient: Tensor | None = None
    ) -> None:
        """Add a flat step to the parameters.

        `loss` and `gradient`, where both are given, are those at the new point.

        They are kept for `value_and_gradient` unless an evaluation draws random numbers or moves
        running statistics: then the next step is another function even on the same mini-batch.
        """
        with torch.no_grad():
            add_(self.params, step)
        self._problem.known = None
        if (
            loss is not None
            and gradient is not None
            and self._targets is not None
            and self._repeatable()
        ):
            self._problem.known = Known(self.inputs, self._targets, self.params, loss, gradient)

    def gradient(self) -> Tensor:
        """The gradient in `.grad` as one flat vector.

        Parameters the loss does not depend on count as zero.
        """
        return flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.params)

    def attached(self) -> Tensor:
        """The loss with its graph, for a method that runs the backward pass itself.

        Each pass counts as a gradient.

        Nothing of it is added to `.grad` before, and nothing clipped afterwards.

        Raises:
            UnsupportedError: several processes share the work.
        """
        self._require_alone("attached")
        self._count("value")
        with torch.enable_grad():
            loss = self._loss(self._span, self._outputs())
        loss.register_hook(lambda _: self._count("grad"))
        return loss

    @contextmanager
    def differentiable(self) -> Iterator[Callable[[], Tensor]]:
        """A closure like `()` that leaves gradients with their graph in `.grad`, to be differentiated once more.

        Each backward pass through them counts as a Hessian product. The graph is dropped when the
        context ends.

        Raises:
            UnsupportedError: several processes share the work.
        """
        self._require_alone("differentiable")
        try:
            yield self._leave_graph
        finally:
            for parameter in self.params:
                parameter.grad = None if parameter.grad is None else parameter.grad.detach()

    def _leave_graph(self) -> Tensor:
        self._count_gradient()
        with torch.enable_grad(), self._differentiable_kernels():
            loss = self._loss(self._span, self._outputs())
            with phase("backward"):
                found = torch.autograd.grad(loss, self.params, create_graph=True, allow_unused=True)
            for parameter, slope in zip(self.params, found, strict=True):
                if slope is not None and not slope.requires_grad:
                    slope = slope + 0 * parameter  # a constant has a derivative too
                elif slope is not None and self._problem.clip is not None:
                    slope = slope.clone()  # what is clipped in place must be no node of the graph
                parameter.grad = slope
        seen = [parameter.grad for parameter in self.params if parameter.grad is not None]
        if seen:
            seen[0].register_hook(lambda _: self._count("hvp"))
        return self._end_gradient([loss.detach()])

    def _require_alone(self, oracle: str) -> None:
        if self._problem.ranks.size > 1:
            raise UnsupportedError(
                f"{oracle} keeps a graph of one process's share of the work; run it in one process"
            )

    # -- curvature ---------------------------------------------------------------------------------

    def hessian(self, once: bool = False) -> Curvature:
        """The Hessian H of the loss.

        Products by differentiating the gradient's graph, which is built once and kept.

        With `once` the first product frees the graph as it goes, which spares memory and its time;
        there is no second.
        """
        self._count_gradient()
        with torch.enable_grad(), self._differentiable_kernels():
            loss = self._loss(self._span, self._outputs())
            with phase("backward"):
                gradient = torch.autograd.grad(
                    loss, self.params, create_graph=True, materialize_grads=True
                )
        curved = [part for part in gradient if part.requires_grad]

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            if not curved:
                return torch.zeros_like(vectors)
            chosen = [
                v
                for v, g in zip(unflatten(vectors, self.params), gradient, strict=True)
                if g.requires_grad
            ]
            return pullback(curved, self.params, chosen, vectors.shape[:-1], batched, keep=not once)

        return self._curvature(loss.detach(), flatten(gradient).detach(), rows, "hvp")

    def ggn(self, structural: float = 0.0) -> Curvature:
        """The generalised Gauss-Newton matrix J' H_out J (+ l2 I), H_out the Hessian of the loss by the outputs.

        J v comes from differentiating u -> J'u twice (double backward), which works for every layer
        that has a double-differentiable backward pass, LSTMs included. Positive semi-definite if
        the loss is convex in the outputs. `structural` adds that multiple of the mean over examples
        of J_h'J_h, J_h the Jacobian of the hidden states of the recurrent layers (Martens and
        Sutskever, 2011, section 3.2, with a squared distance); like a damping it is meant for the
        canonical loss and scaled to this one.

        Raises:
            UnsupportedError: `structural` is not zero and there is no recurrent layer.
        """
        self._count_gradient()
        l2, params = self._own_l2, self.params
        watched = self._problem.recurrent if structural else []
        if structural and not watched:
            raise UnsupportedError(
                "structural damping needs a recurrent layer (nn.RNN, nn.GRU or nn.LSTM); set it to 0"
            )
        with torch.enable_grad(), self._differentiable_kernels():
            with hidden_states(watched) as hidden:
                outputs = self._outputs()
            free = outputs.detach().requires_grad_()
            loss = self._data_loss(free, self._span)
            with phase("backward"):
                (slope,) = torch.autograd.grad(loss, free, create_graph=True)
            heads = [outputs, *hidden]
            # u -> J'u is linear: any u serves for its derivative; the slope, and zeros for the
            # states, give J'slope
            duals = [
                slope.detach().clone().requires_grad_(),
                *(torch.zeros_like(h, requires_grad=True) for h in hidden),
            ]
            with phase("backward"):
                pulled = torch.autograd.grad(
                    heads, params, duals, create_graph=True, materialize_grads=True
                )
        linked = [part for part in pulled if part.requires_grad]
        gradient = flatten(pulled).detach() + l2 * flatten(params).detach()
        share = structural * self.scale / len(self.inputs)

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            chosen = [
                v
                for v, g in zip(unflatten(vectors, params), pulled, strict=True)
                if g.requires_grad
            ]
            options = {"retain_graph": True, "materialize_grads": True, "is_grads_batched": batched}
            pushed, *swung = torch.autograd.grad(linked, duals, chosen, **options)
            if slope.requires_grad:
                (curved,) = torch.autograd.grad(slope, free, pushed, **options)
            else:
                curved = torch.zeros_like(pushed)
            upper = [curved, *(share * s for s in swung)]
            return pullback(heads, params, upper, vectors.shape[:-1], batched) + l2 * vectors

        loss = loss.detach() + self._regulariser(params).detach()
        return self._curvature(loss, gradient, rows, "ggnvp")

    def _curvature(
        self, loss: Tensor, gradient: Tensor, rows: Callable[..., Tensor], name: str
    ) -> Curvature:
        """The curvature whose loss, gradient and products are the sums of these over the ranks."""

        def summed(vectors: Tensor, batched: bool = True) -> Tensor:
            return self._summed(rows(vectors, batched))

        loss, gradient = self._summed_pair((loss, gradient))
        self._observe(loss, gradient)
        return Curvature(
            loss, gradient, lambda vector: summed(vector, False), summed, partial(self._count, name)
        )

    @phased("curvature")
    def jacobian(self) -> tuple[Tensor, Tensor]:
        """Residuals r (m,) and their Jacobian J (m, n), scaled so that the loss is |r|^2 / 2 and its gradient J'r.

        Built from one backward pass of the batch per output where examples are independent, else
        from m backward passes or n double ones, whichever are fewer. The regulariser adds n
        residuals.

        Raises:
            UnsupportedError: the loss is not a mean or sum of squared errors.
            ValueError: outputs and targets differ in shape.
        """
        self._count("value")
        self._count("jac")
        with torch.enable_grad(), self._differentiable_kernels():
            flat, residuals, weight = self._weighted_residuals()
            jacobian = self._problem.ranks.all_gather(self._jacobian(flat, weight))
        residuals = self._problem.ranks.all_gather(residuals)
        if self._problem.l2:
            root, theta = self._problem.l2**0.5, flatten(self.params).detach()
            residuals = torch.cat([residuals, root * theta])
            jacobian = torch.cat(
                [jacobian, root * torch.eye(len(theta), dtype=theta.dtype, device=theta.device)]
            )
        if self._watched:
            self._observe(residuals.square().sum() / 2, residuals @ jacobian)
        return residuals, jacobian

    def residuals(self, step: Tensor | None = None) -> Tensor:
        """The residuals r (m,) of `jacobian`, at the parameters or at `parameters + step`.

        The loss is |r|^2 / 2.

        Raises:
            UnsupportedError, ValueError: as `jacobian`.
        """
        self._count("value")
        with torch.no_grad():
            params = self._params_at(step)
            _, residuals, _ = self._weighted_residuals(params)
            residuals = self._problem.ranks.all_gather(residuals)
            if not self._problem.l2:
                return residuals
            return torch.cat([residuals, self._problem.l2**0.5 * flatten(params or self.params)])

    def _weighted_residuals(
        self, params: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, float]:
        """The outputs times the loss's weight, with their graph.

        Their distances from the targets; the weight.
        """
        family = self._problem.family
        if not isinstance(family, Gaussian):
            raise UnsupportedError(
                f"jacobian needs a squared error (nn.MSELoss), got "
                f"{type(self._problem.loss_fn).__name__}"
            )
        outputs = self._outputs(params)
        targets = self._resolved_targets(outputs, self._span)
        if targets.shape != outputs.shape and targets.numel() != 1:
            raise ValueError(
                f"jacobian needs targets of shape {tuple(outputs.shape)}, got "
                f"{tuple(targets.shape)}"
            )
        weight = (2 * family.residual_weight(self._output_like())) ** 0.5
        flat = (weight * outputs).flatten()
        return flat, flat.detach() - weight * targets.flatten(), weight

    def _jacobian(self, flat: Tensor, weight: float) -> Tensor:
        """J of the flat weighted outputs, example by example where these are independent and that is less work."""
        inputs = self._cut(self.inputs, self._span)
        count = len(inputs)
        coupled = any(couples(norm) for norm in self._problem.norms)
        independent = (
            count > 1 and flat.numel() % count == 0 and not coupled and not self._moment.random
        )
        if not independent or flat.numel() // count > self._size():
            return jacobian_by_graph(flat, self.params)
        one_by_one = bool(self._problem.recurrent)  # their kernels have no batching rule
        with held_statistics(self._problem.norms):
            rows = jacobian_by_examples(
                self.model, self._problem.names, self.params, inputs, one_by_one
            )
        return (
            weight * rows if rows.shape[0] == flat.numel() else jacobian_by_graph(flat, self.params)
        )

    @phased("curvature")
    def per_example_grads(self) -> Tensor:
        """One gradient per example, (N, n), scaled so that the mean over the rows is the gradient of the loss.

        A loss of one's own is taken to be a mean over examples unless its `reduction` is `sum`.

        Raises:
            UnsupportedError: the examples are coupled and have no gradients of their own: by batch
                normalisation that uses the batch's statistics, or by a mean that is weighted by the
                targets.
        """
        problem = self._problem
        if any(couples(norm) for norm in problem.norms):
            raise UnsupportedError(
                "per_example_grads needs independent examples; batch normalisation couples them"
            )
        if weighted_mean(problem.loss_fn):
            raise UnsupportedError(
                "per_example_grads needs a plain mean; class weights or ignored targets couple the "
                "examples"
            )
        self.counts["examples"] += len(self.inputs)
        if problem.recurrent:  # their kernels have no batching rule
            rows = self._looped_example_grads()
        else:
            try:
                rows = self._vectorised_example_grads()
            except RuntimeError:  # random masks, or another operator without a batching rule
                rows = self._looped_example_grads()
        rows = problem.ranks.all_gather(rows)
        if getattr(problem.loss_fn, "reduction", "mean") == "sum":
            rows = rows * len(self.inputs)
        return rows + problem.l2 * flatten(self.params).detach()

    def _vectorised_example_grads(self) -> Tensor:
        problem = self._problem
        frozen = {
            name: parameter.detach()
            for name, parameter in zip(problem.names, self.params, strict=True)
        }
        inputs, targets = (
            self._cut(whole, self._span) for whole in (self.inputs, self._known_targets())
        )

        def loss(params: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
            output = outputs_at(problem.model, params, example[None])
            result: Tensor = problem.loss_fn(output, target[None])
            return result

        with self._differentiable_kernels(), held_statistics(problem.norms):
            grads = vmap(grad(loss), in_dims=(None, 0, 0), randomness="error")(
                frozen, inputs, targets
            )
        return torch.cat([grads[name].reshape(len(inputs), -1) for name in problem.names], dim=1)

    def _looped_example_grads(self) -> Tensor:
        with (
            torch.enable_grad(),
            self._differentiable_kernels(),
            held_statistics(self._problem.norms),
        ):
            outputs, targets = self._outputs(), self._cut(self._known_targets(), self._span)
            if self._moment.random:  # one set of masks for the whole batch
                parts = zip(outputs.split(1), targets.split(1), strict=True)
            else:  # a backward pass of one example costs less than one of the batch
                inputs = self._cut(self.inputs, self._span)
                parts = zip(map(self.model, inputs.split(1)), targets.split(1), strict=True)
            losses = (self._problem.loss_fn(output, target) for output, target in parts)
            rows = [
                pullback([loss], self.params, [torch.ones_like(loss)], (), False) for loss in losses
            ]
        return torch.stack(rows)

    # -- layers and other targets ------------------------------------------------------------------

    def capture(
        self, kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv2d)
    ) -> AbstractContextManager[Captured]:
        """Record inputs and output gradients of the layers of these kinds during the evaluations inside the `with`."""
        return capture(self._problem.model, kinds)

    def sampled(self) -> Self:
        """The same inputs with targets drawn from the model's own predictive distribution, at its first evaluation.

        Raises:
            UnsupportedError: the loss is not the negative log-likelihood of a known distribution.
        """
        require_family(self._problem.family, self._problem.loss_fn, "sampled")
        return self._derived(self.inputs, None, self._moment)

    def scores(
        self,
        kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv2d),
        fisher: str = "sampled",
        gradient: bool = True,
    ) -> tuple[Tensor, list[Captured]]:
        """The loss, and what layers see in one forward pass with output gradients for a Fisher matrix's targets.

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
        if fisher != "empirical":
            require_family(self._problem.family, self._problem.loss_fn, "scores")
        if gradient:
            self._begin_gradient()
        else:
            self._count("value")
        seen = self.sampled() if fisher == "sampled" else self
        losses, found = [], []
        with torch.enable_grad(), self._evaluation():
            for part in self._parts():
                # open for the backward passes too: a checkpointed layer has to be computed again as
                # it was
                with capture(self._problem.model, kinds, watch=False) as recording:
                    outputs = self._forward(part)
                    captured = settled(recording)
                    loss = self._loss(part, outputs)
                    losses.append(loss.detach())
                    found.append(
                        self._part_scores(
                            part, outputs, loss if gradient else None, captured, fisher, seen
                        )
                    )
        self._count("grad", len(found[0]) - (gradient and fisher == "empirical"))
        whole = self._end_gradient(losses) if gradient else self._summed(*losses)
        return whole, [merged(records) for records in zip(*found, strict=True)]

    def _part_scores(
        self,
        part: slice,
        outputs: Tensor,
        loss: Tensor | None,
        captured: Captured,
        fisher: str,
        seen: Objective,
    ) -> list[Captured]:
        """What layers see of a part with each root of the Fisher matrix.

        The gradient of a loss is added to `.grad`.
        """
        edges = edges_of(captured)
        if loss is not None and fisher == "empirical":
            return [passes(captured, self._add_gradient(loss, edges, keep=False))]
        if loss is not None:
            self._add_gradient(loss, (), keep=True)
        roots = list(self._roots(part, outputs, fisher, seen))
        found = []
        for left, root in enumerate(roots, start=1 - len(roots)):
            options = {"retain_graph": left < 0, "allow_unused": True}
            with phase("curvature"):
                slopes = torch.autograd.grad(outputs, edges, root, **options) if edges else ()
            found.append(passes(captured, slopes))
        return found

    def _roots(
        self, part: slice, outputs: Tensor, fisher: str, seen: Objective
    ) -> Iterator[Tensor]:
        """The gradients by a part's outputs that stand for a Fisher matrix."""
        if fisher == "exact":
            family = require_family(self._problem.family, self._problem.loss_fn, "scores")
            weight = self.scale / self.terms
            return (weight * root for root in family.roots(outputs.detach()))
        free = outputs.detach().requires_grad_()
        return iter(torch.autograd.grad(seen._data_loss(free, part), free))

    def fresh(self) -> Self:
        """Another mini-batch of the same task, within the same step.

        Raises:
            UnsupportedError: the objective was made without a `sampler`.
        """
        if self._problem.sampler is None:
            raise UnsupportedError(
                "fresh needs an objective with a sampler; pass Objective(..., sampler=...)"
            )
        return self._derived(*self._problem.sampler(), self._moment)

    def joined(self, count: int) -> Self:
        """This mini-batch and `count - 1` fresh ones as one.

        An oracle call on it counts as `count` calls.

        Raises:
            UnsupportedError: the objective was made without a `sampler`.
        """
        others = [self.fresh() for _ in range(count - 1)]
        inputs = torch.cat([self.inputs, *(other.inputs for other in others)])
        targets = torch.cat([self._known_targets(), *(other._known_targets() for other in others)])
        return self._derived(
            inputs, targets, self._moment, main=self._main, share=count * self._share
        )

    # -- what is remembered and reported -----------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counts, and what is known at the parameters, for a checkpoint."""
        known = self._problem.known
        return {"counts": dict(self.counts), "known": None if known is None else known.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the model's parameters have to be restored before."""
        self.counts.clear()
        self.counts.update(state["counts"])
        known = state["known"]
        self._problem.known = None if known is None else Known.restored(known, self.params)

    def _recalled(self) -> Known | None:
        known = self._problem.known
        if known is None or self._targets is None:
            return None
        return known if known.holds(self.inputs, self._targets, self.params) else None

    def _repeatable(self) -> bool:
        """Whether the same mini-batch would be the same function in the next step."""
        moving = any(norm.training and norm.track_running_stats for norm in self._problem.norms)
        return not moving and not self._moment.random

    @property
    def _watched(self) -> bool:
        return self._main and self._problem.observer is not None

    def _observe(self, loss: Tensor, gradient: Tensor) -> None:
        if self._main and self._problem.observer is not None:
            self._problem.observer(loss, gradient)
