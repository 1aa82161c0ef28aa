"""The loss of one mini-batch as a function of the parameters, and every derivative an optimizer may ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from optimizers.capture import Captured, capture
from optimizers.errors import Unsupported
from optimizers.linalg.curvature import Curvature, batched
from optimizers.linalg.flat import flatten, unflatten
from optimizers.losses import Family, Gaussian, family_of, require_family

Batch = tuple[Tensor, Tensor]
Counts = Counter[str]


@dataclass
class _Problem:
    """What the objectives of one run have in common."""

    model: nn.Module
    loss_fn: nn.Module
    family: Family | None
    names: list[str]
    params: list[nn.Parameter]
    norms: list[_NormBase]
    recurrent: list[nn.RNNBase]
    l2: float
    autocast: bool
    sampler: Callable[[], Batch] | None
    generator: torch.Generator
    counts: Counts = field(default_factory=Counter)


class _Moment:
    """The point in a step at which every evaluation is made: one random state, one update of the running statistics."""

    __slots__ = ("device", "device_state", "host_state")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_state: Tensor | None = None
        self.device_state: Tensor | None = None

    @contextmanager
    def replayed(self, norms: Sequence[_NormBase]) -> Iterator[None]:
        """Evaluate again as if for the first time, and leave generators and running statistics as they are."""
        assert self.host_state is not None
        host_state, device_state = torch.get_rng_state(), self._device_state()
        self._set(self.host_state, self.device_state)
        try:
            with _held_statistics(norms):
                yield
        finally:
            self._set(host_state, device_state)

    def begin(self) -> None:
        """Remember the random state from which the first evaluation starts."""
        self.host_state, self.device_state = torch.get_rng_state(), self._device_state()

    def _device_state(self) -> Tensor | None:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def _set(self, host_state: Tensor, device_state: Tensor | None) -> None:
        torch.set_rng_state(host_state)
        if device_state is not None:
            torch.cuda.set_rng_state(device_state, self.device)


@contextmanager
def _held_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Layers in training mode normalise by the batch as before, but their running statistics do not move.

    Restoring the buffers afterwards instead would change them in place and so break the kept graph and torch.func.
    """
    tracking = [(n, n.running_mean, n.running_var) for n in norms if n.training and n.track_running_stats]
    for norm, _, _ in tracking:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, mean, variance in tracking:
            norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, variance


class Objective:
    """The loss of a mini-batch as a function of a model's trainable parameters, with counted oracles.

    `objective()` is a torch closure, so any torch optimizer takes it: `optimizer.step(objective)`. Methods that know
    more ask for more: `value`, `hessian`, `ggn`, `jacobian`, `per_example_grads`, `capture`, `sampled`, `fresh`.

    Within one objective, and those derived from it, evaluations are a function: random state (dropout) is replayed and
    running statistics (batch normalisation) move at the first evaluation only. Vectors are flat, of shape (n,), in the
    order of `params`. The loss includes `l2 / 2 * |theta|^2`, and so do its gradient and every curvature.

    Args:
        model: the network; its parameters with `requires_grad` are the variables.
        loss_fn: a torch loss, or a module of that convention, called as `loss_fn(outputs, targets)`.
        inputs, targets: the mini-batch, the examples along the first dimension.
        l2: the factor of the quadratic regulariser.
        sampler: draws another mini-batch, for `fresh`.
        generator: the source of sampled targets; by default one seeded by the state of torch's global generator.
        autocast: run the forward pass in bfloat16 where torch.autocast allows it.

    Raises:
        ValueError: the model has no trainable parameter.
    """

    __slots__ = ("_moment", "_outputs_shape", "_problem", "_targets", "_vectors", "counts", "inputs", "params")

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
    ) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True")
        params = [parameter for _, parameter in named]
        device = params[0].device
        if generator is None:
            with torch.random.fork_rng(devices=[]):
                generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        problem = _Problem(
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
        )
        self._begin(problem, inputs, targets, _Moment(device))

    def _begin(self, problem: _Problem, inputs: Tensor, targets: Tensor | None, moment: _Moment) -> None:
        self._problem = problem
        self._moment = moment
        self._targets = targets
        self._outputs_shape: torch.Size | None = None
        self._vectors: Tensor | None = None
        self.inputs = inputs
        self.params = problem.params
        self.counts = problem.counts

    def _derived(self, inputs: Tensor, targets: Tensor | None, moment: _Moment) -> Self:
        other = object.__new__(type(self))
        other._begin(self._problem, inputs, targets, moment)
        return other

    def on(self, inputs: Tensor, targets: Tensor) -> Self:
        """The same model and loss on the next mini-batch: a new step begins, the counts go on."""
        return self._derived(inputs, targets, _Moment(self._moment.device))

    # -- values and gradients ------------------------------------------------------------------------------------------

    def __call__(self) -> Tensor:
        """Fill `.grad` of every parameter and return the detached loss."""
        counts = self.counts
        counts["value"] += 1
        counts["grad"] += 1
        for parameter in self.params:
            parameter.grad = None
        with torch.enable_grad():
            loss = self._evaluate()
            loss.backward()
        return loss.detach()

    def value(self, step: Tensor | None = None) -> Tensor:
        """The loss, without a graph, at the parameters or at `parameters + step` (flat).

        The parameters are not written: a graph that a curvature keeps stays valid while trial points are evaluated.
        """
        self.counts["value"] += 1
        with torch.no_grad():
            return self._evaluate(step)

    def gradient(self) -> Tensor:
        """The gradient in `.grad` as one flat vector; parameters the loss does not depend on count as zero."""
        return flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.params)

    # -- curvature -----------------------------------------------------------------------------------------------------

    def hessian(self) -> Curvature:
        """The Hessian H of the loss: products by differentiating the gradient's graph, which is built once and kept."""
        self._count_gradient()
        with torch.enable_grad(), self._differentiable_kernels():
            loss = self._evaluate()
            gradient = torch.autograd.grad(loss, self.params, create_graph=True, materialize_grads=True)
        curved = [part for part in gradient if part.requires_grad]

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            if not curved:
                return torch.zeros_like(vectors)
            chosen = [v for v, g in zip(unflatten(vectors, self.params), gradient, strict=True) if g.requires_grad]
            return self._rows(curved, chosen, vectors.shape[:-1], batched)

        return self._curvature(loss, flatten(gradient), rows, "hvp")

    def ggn(self) -> Curvature:
        """The generalised Gauss-Newton matrix J' H_out J (+ l2 I), H_out the Hessian of the loss by the outputs.

        J v comes from differentiating u -> J'u twice (double backward), which works for every layer that has a
        double-differentiable backward pass, LSTMs included. Positive semi-definite if the loss is convex in the
        outputs.
        """
        self._count_gradient()
        l2, params = self._problem.l2, self.params
        with torch.enable_grad(), self._differentiable_kernels():
            outputs = self._outputs()
            free = outputs.detach().requires_grad_()
            loss = self._data_loss(free)
            (slope,) = torch.autograd.grad(loss, free, create_graph=True)
            dual = slope.detach().clone().requires_grad_()  # u -> J'u is linear: any u serves, this one gives J'slope
            pulled = torch.autograd.grad(outputs, params, dual, create_graph=True, materialize_grads=True)
        linked = [part for part in pulled if part.requires_grad]
        gradient = flatten(pulled).detach() + l2 * flatten(params).detach()

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            chosen = [v for v, g in zip(unflatten(vectors, params), pulled, strict=True) if g.requires_grad]
            options = {"retain_graph": True, "materialize_grads": True, "is_grads_batched": batched}
            (pushed,) = torch.autograd.grad(linked, dual, chosen, **options)
            if not slope.requires_grad:
                return l2 * vectors
            (curved,) = torch.autograd.grad(slope, free, pushed, **options)
            return self._rows([outputs], [curved], vectors.shape[:-1], batched) + l2 * vectors

        return self._curvature(loss + self._regulariser(params), gradient, rows, "ggnvp")

    def _curvature(self, loss: Tensor, gradient: Tensor, rows: Callable[..., Tensor], name: str) -> Curvature:
        return Curvature(loss.detach(), gradient.detach(), lambda vector: rows(vector, False), rows, self.counts, name)

    def jacobian(self) -> tuple[Tensor, Tensor]:
        """Residuals r (m,) and their Jacobian J (m, n), scaled so that the loss is |r|^2 / 2 and its gradient J'r.

        Built from m backward passes, or from n double ones where that is fewer. The regulariser adds n residuals.

        Raises:
            Unsupported: the loss is not a mean or sum of squared errors.
            ValueError: outputs and targets differ in shape.
        """
        family = self._problem.family
        if not isinstance(family, Gaussian):
            raise Unsupported(
                f"jacobian needs a squared error (nn.MSELoss), got {type(self._problem.loss_fn).__name__}"
            )
        self.counts["value"] += 1
        self.counts["jac"] += 1
        with torch.enable_grad(), self._differentiable_kernels():
            outputs = self._outputs()
            targets = self._resolved_targets(outputs)
            if targets.shape != outputs.shape:
                raise ValueError(f"jacobian needs targets of shape {tuple(outputs.shape)}, got {tuple(targets.shape)}")
            weight = (2 * family.residual_weight(outputs)) ** 0.5
            flat = (weight * outputs).flatten()
            residuals = flat.detach() - weight * targets.flatten()
            jacobian = self._tall_jacobian(flat) if flat.numel() > self._size() else self._wide_jacobian(flat)
        if self._problem.l2:
            root, theta = self._problem.l2**0.5, flatten(self.params).detach()
            residuals = torch.cat([residuals, root * theta])
            jacobian = torch.cat([jacobian, root * torch.eye(len(theta), dtype=theta.dtype, device=theta.device)])
        return residuals, jacobian

    def _wide_jacobian(self, outputs: Tensor, chunk: int = 256) -> Tensor:
        """Row by row: J'e_i for every output."""
        identity = torch.eye(outputs.numel(), dtype=outputs.dtype, device=outputs.device)

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            return self._rows([outputs], [vectors], vectors.shape[:-1], batched)

        return torch.cat([batched(rows, lambda v: rows(v, False), part) for part in identity.split(chunk)])

    def _tall_jacobian(self, outputs: Tensor, chunk: int = 256) -> Tensor:
        """Column by column: J e_j for every parameter, by differentiating u -> J'u."""
        dual = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, self.params, dual, create_graph=True, materialize_grads=True)
        linked = [part for part in pulled if part.requires_grad]
        identity = torch.eye(self._size(), dtype=outputs.dtype, device=outputs.device)

        def rows(vectors: Tensor, batched: bool = True) -> Tensor:
            chosen = [v for v, g in zip(unflatten(vectors, self.params), pulled, strict=True) if g.requires_grad]
            (pushed,) = torch.autograd.grad(
                linked, dual, chosen, retain_graph=True, materialize_grads=True, is_grads_batched=batched
            )
            return pushed

        return torch.cat([batched(rows, lambda v: rows(v, False), part) for part in identity.split(chunk)]).T

    def per_example_grads(self) -> Tensor:
        """One gradient per example, (N, n), scaled so that the mean over the rows is the gradient of the loss.

        A loss of one's own is taken to be a mean over examples unless its `reduction` is `sum`.

        Raises:
            Unsupported: the examples are coupled and have no gradients of their own: by batch normalisation that uses
                the batch's statistics, or by a mean that is weighted by the targets.
        """
        problem = self._problem
        if any(_couples(norm) for norm in problem.norms):
            raise Unsupported("per_example_grads needs independent examples; batch normalisation couples them")
        if _weighted_mean(problem.loss_fn):
            raise Unsupported(
                "per_example_grads needs a plain mean; class weights or ignored targets couple the examples"
            )
        self.counts["examples"] += len(self.inputs)
        try:
            rows = self._vectorised_example_grads()
        except RuntimeError:  # random masks, or an operator without a batching rule
            rows = self._looped_example_grads()
        if getattr(problem.loss_fn, "reduction", "mean") == "sum":
            rows = rows * len(self.inputs)
        return rows + problem.l2 * flatten(self.params).detach()

    def _vectorised_example_grads(self) -> Tensor:
        problem = self._problem
        frozen = {name: parameter.detach() for name, parameter in zip(problem.names, self.params, strict=True)}
        targets = self._known_targets()

        def loss(params: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
            output = functional_call(problem.model, params, (example[None],))
            result: Tensor = problem.loss_fn(output, target[None])
            return result

        with self._differentiable_kernels(), _held_statistics(problem.norms):
            grads = vmap(grad(loss), in_dims=(None, 0, 0), randomness="error")(frozen, self.inputs, targets)
        return torch.cat([grads[name].flatten(1) for name in problem.names], dim=1)

    def _looped_example_grads(self) -> Tensor:
        with torch.enable_grad():
            outputs = self._outputs()
            targets = self._resolved_targets(outputs)
            losses = [self._problem.loss_fn(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))]
        return torch.stack([self._rows([loss], [torch.ones_like(loss)], (), False) for loss in losses])

    # -- layers and other targets --------------------------------------------------------------------------------------

    def capture(self, kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv2d)) -> AbstractContextManager[Captured]:
        """Record inputs and output gradients of the layers of these kinds during the evaluations inside the `with`."""
        return capture(self._problem.model, kinds)

    def sampled(self) -> Self:
        """The same inputs with targets drawn from the model's own predictive distribution, at its first evaluation.

        Raises:
            Unsupported: the loss is not the negative log-likelihood of a known distribution.
        """
        require_family(self._problem.family, self._problem.loss_fn, "sampled")
        return self._derived(self.inputs, None, self._moment)

    def fisher_roots(self) -> Iterator[Self]:
        """One objective per output, whose output gradients s_c / M have sum_c s_c s_c' = the Hessian of each loss term.

        Where `sampled` draws the Fisher's targets, these sum over all of them: M terms, C objectives, no noise.

        Raises:
            Unsupported: the loss is not the negative log-likelihood of a known distribution.
        """
        family = require_family(self._problem.family, self._problem.loss_fn, "fisher_roots")
        self.counts["value"] += 1
        with torch.no_grad():
            outputs = self._outputs()
        weight = family.scale(outputs) / family.terms(outputs)
        return (self._against(weight * root) for root in family.roots(outputs))

    def _against(self, vectors: Tensor) -> Self:
        """The objective whose gradient by the outputs is `vectors`."""
        other = self._derived(self.inputs, None, self._moment)
        other._vectors = vectors
        return other

    def fresh(self) -> Self:
        """Another mini-batch of the same task, within the same step.

        Raises:
            Unsupported: the objective was made without a `sampler`.
        """
        if self._problem.sampler is None:
            raise Unsupported("fresh needs an objective with a sampler; pass Objective(..., sampler=...)")
        return self._derived(*self._problem.sampler(), self._moment)

    @property
    def model(self) -> nn.Module:
        """The network whose parameters are the variables."""
        return self._problem.model

    @property
    def l2(self) -> float:
        """The factor of the quadratic regulariser; `l2 I` is its part of every curvature."""
        return self._problem.l2

    @property
    def scale(self) -> float:
        """The factor between this loss and the canonical one (summed over outputs, averaged over examples).

        A damping that is multiplied by it means the same for any reduction and batch size; 1 for an unknown loss.
        """
        family = self._problem.family
        return 1.0 if family is None else family.scale(self._output_like())

    @property
    def terms(self) -> int:
        """The number of log-likelihood terms the canonical loss is a mean over: examples, or positions of sequences."""
        family = self._problem.family
        return len(self.inputs) if family is None else family.terms(self._output_like())

    # -- how an evaluation is made -------------------------------------------------------------------------------------

    def _evaluate(self, step: Tensor | None = None) -> Tensor:
        params = self._params_at(step)
        loss = self._data_loss(self._outputs(params))
        return loss + self._regulariser(params or self.params) if self._problem.l2 else loss

    def _outputs(self, params: list[Tensor] | None = None) -> Tensor:
        if self._moment.host_state is None:
            self._moment.begin()
            outputs = self._forward(params)
        else:
            with self._moment.replayed(self._problem.norms):
                outputs = self._forward(params)
        self._outputs_shape = outputs.shape
        return outputs

    def _forward(self, params: list[Tensor] | None) -> Tensor:
        problem = self._problem
        precision = torch.autocast(self._moment.device.type, torch.bfloat16) if problem.autocast else nullcontext()
        with precision:
            outputs: Tensor = problem.model(self.inputs) if params is None else self._forward_at(params)
        return outputs.to(self.params[0].dtype) if problem.autocast else outputs

    def _forward_at(self, params: list[Tensor]) -> Tensor:
        problem = self._problem
        outputs: Tensor = functional_call(problem.model, dict(zip(problem.names, params, strict=True)), (self.inputs,))
        for layer in problem.recurrent:  # they hold on to the parameters of their last call
            layer._update_flat_weights()
        return outputs

    def _data_loss(self, outputs: Tensor) -> Tensor:
        if self._vectors is not None:
            return (outputs * self._vectors).sum()
        loss: Tensor = self._problem.loss_fn(outputs, self._resolved_targets(outputs))
        return loss

    def _regulariser(self, params: Sequence[Tensor]) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in params])
        return self._problem.l2 / 2 * squares.sum()

    def _resolved_targets(self, outputs: Tensor) -> Tensor:
        if self._vectors is not None:
            raise Unsupported("an objective from fisher_roots has an output gradient and no targets")
        if self._targets is None:
            family = require_family(self._problem.family, self._problem.loss_fn, "sampled")
            self._targets = family.sample(outputs.detach(), self._problem.generator)
        return self._targets

    def _known_targets(self) -> Tensor:
        if self._targets is not None:
            return self._targets
        with torch.no_grad():
            self.counts["value"] += 1
            return self._resolved_targets(self._outputs())

    def _params_at(self, step: Tensor | None) -> list[Tensor] | None:
        if step is None:
            return None
        return [p.detach() + d for p, d in zip(self.params, unflatten(step, self.params), strict=True)]

    def _rows(self, heads: list[Tensor], vectors: list[Tensor], shape: Sequence[int], batched: bool) -> Tensor:
        """Vector-Jacobian products by the parameters as flat rows of shape (*shape, n)."""
        parts = torch.autograd.grad(
            heads, self.params, vectors, retain_graph=True, materialize_grads=True, is_grads_batched=batched
        )
        return torch.cat([part.reshape(*shape, -1) for part in parts], dim=-1)

    def _differentiable_kernels(self) -> AbstractContextManager[None]:
        """Attention and recurrent kernels that can be differentiated twice (the fast ones cannot)."""
        return _twice_differentiable(plain_rnn=bool(self._problem.recurrent) and self._moment.device.type == "cuda")

    def _count_gradient(self) -> None:
        self.counts["value"] += 1
        self.counts["grad"] += 1

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self.params)

    def _output_like(self) -> Tensor:
        if self._outputs_shape is None:
            raise RuntimeError("scale and terms are known once the objective has been evaluated; call it first")
        return torch.empty(self._outputs_shape, device="meta")


@contextmanager
def _twice_differentiable(plain_rnn: bool) -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False) if plain_rnn else nullcontext():
        yield


def _couples(norm: _NormBase) -> bool:
    """Whether a layer mixes the examples of a batch."""
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)


def _weighted_mean(loss_fn: nn.Module) -> bool:
    """Whether a classification loss divides by a sum of weights that depends on the batch's targets."""
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or loss_fn.reduction != "mean":
        return False
    return loss_fn.weight is not None or loss_fn.ignore_index != -100
