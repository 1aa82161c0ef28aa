"""The residuals of a squared error, whose loss is |r|^2 / 2, and their Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten
from optimizers.objective.jacobian import jacobian_by_examples, jacobian_by_graph
from optimizers.objective.likelihoods import Gaussian
from optimizers.objective.minibatch import Minibatch
from optimizers.objective.step_state import held_statistics


def jacobian_of(batch: Minibatch) -> tuple[Tensor, Tensor]:
    """Residuals (m,) and Jacobian (m, n) of all ranks; the regulariser adds n of them."""
    problem = batch.problem
    with torch.enable_grad(), problem.differentiable_kernels():
        flat, residuals, weight = _weighted(batch)
        jacobian = problem.ranks.all_gather(_jacobian(batch, flat, weight))
    residuals = problem.ranks.all_gather(residuals)
    if problem.l2:
        root, theta = problem.l2**0.5, flatten(problem.params).detach()
        residuals = torch.cat([residuals, root * theta])
        jacobian = torch.cat(
            [jacobian, root * torch.eye(len(theta), dtype=theta.dtype, device=theta.device)]
        )
    return residuals, jacobian


def residuals_of(batch: Minibatch, step: Tensor | None) -> Tensor:
    """The residuals (m,) of all ranks, at the parameters or at `parameters + step`."""
    problem = batch.problem
    with torch.no_grad():
        params = problem.params_at(step)
        residuals = problem.ranks.all_gather(_weighted(batch, params)[1])
        if not problem.l2:
            return residuals
        return torch.cat([residuals, problem.l2**0.5 * flatten(params or problem.params)])


def _weighted(batch: Minibatch, params: list[Tensor] | None = None) -> tuple[Tensor, Tensor, float]:
    """The weighted outputs with their graph, their distances from the targets, the weight."""
    family = batch.problem.family
    if not isinstance(family, Gaussian):
        raise UnsupportedError(
            "jacobian needs a squared error (nn.MSELoss), got "
            f"{type(batch.problem.loss_fn).__name__}"
        )
    outputs = batch.outputs(params)
    targets = batch.targets_of(outputs, batch.span)
    if targets.shape != outputs.shape and targets.numel() != 1:
        raise ValueError(
            f"jacobian needs targets of shape {tuple(outputs.shape)}, got {tuple(targets.shape)}"
        )
    weight = (2 * family.residual_weight(batch.output_like())) ** 0.5
    flat = (weight * outputs).flatten()
    return flat, flat.detach() - weight * targets.flatten(), weight


def _jacobian(batch: Minibatch, flat: Tensor, weight: float) -> Tensor:
    """J of the flat weighted outputs, example by example where that is possible and less work."""
    problem, inputs = batch.problem, batch.own_inputs()
    if not _independent(batch, flat) or flat.numel() // len(inputs) > problem.size:
        return jacobian_by_graph(flat, problem.params)
    one_by_one = bool(problem.recurrent)  # their kernels have no batching rule
    with held_statistics(problem.norms):
        rows = jacobian_by_examples(
            problem.model, problem.names, problem.params, inputs, one_by_one
        )
    if rows.shape[0] != flat.numel():
        return jacobian_by_graph(flat, problem.params)
    return weight * rows


def _independent(batch: Minibatch, flat: Tensor) -> bool:
    """Whether every example has outputs of its own, the same in each evaluation."""
    count = len(batch.own_inputs())
    divided = count > 1 and flat.numel() % count == 0
    return divided and not batch.problem.coupled and not batch.random_state.random
