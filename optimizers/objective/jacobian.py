"""Jacobians of a model's outputs, built in the way that is cheapest for their shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from optimizers.linalg.curvature import batched
from optimizers.linalg.flat import unflatten

CHUNK = 256  # vectors in one vectorised pass


def outputs_at(model: nn.Module, values: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The model's outputs with other values for the named parameters, wherever these are used.

    `functional_call` by itself takes the parameters from a module that is registered under two
    names: here every place is named once.
    """
    value_of = {
        id(parameter): values[name]
        for name, parameter in model.named_parameters()
        if name in values
    }
    places = {
        f"{prefix}.{name}".lstrip("."): value_of[id(parameter)]
        for prefix, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in value_of
    }
    result: Tensor = functional_call(model, places, (inputs,), tie_weights=False)
    return result


def pullback(
    heads: Sequence[Tensor],
    params: Sequence[Tensor],
    vectors: Sequence[Tensor],
    shape: Sequence[int],
    many: bool,
    keep: bool = True,
) -> Tensor:
    """Vector-Jacobian products by the parameters as flat rows of shape (*shape, n).

    The graph stays by default.
    """
    parts = torch.autograd.grad(
        heads, params, vectors, retain_graph=keep, materialize_grads=True, is_grads_batched=many
    )
    # the zeros of a parameter that no head depends on come without the batch axis
    whole = [
        part.expand((*shape, *p.shape)) if part.ndim == p.ndim else part
        for part, p in zip(parts, params, strict=True)
    ]
    return torch.cat([part.reshape(*shape, -1) for part in whole], dim=-1)


def jacobian_by_graph(outputs: Tensor, params: Sequence[Tensor]) -> Tensor:
    """J (m, n) of flat outputs from their graph.

    It takes m backward passes, or n double ones where those are fewer.
    """
    size = sum(parameter.numel() for parameter in params)
    return (
        _by_columns(outputs, params, size) if outputs.numel() > size else _by_rows(outputs, params)
    )


def jacobian_by_examples(
    model: nn.Module,
    names: Sequence[str],
    params: Sequence[Tensor],
    inputs: Tensor,
    one_by_one: bool,
) -> Tensor:
    """J (N C, n) of a model whose C outputs of an example depend on that example alone.

    It takes C backward passes of a batch.

    `one_by_one` takes N C passes of a single example instead, for operators that cannot be
    vectorised; so does the failure to vectorise.
    """
    if not one_by_one:
        try:
            return _vectorised(model, names, params, inputs)
        except RuntimeError:
            pass
    with torch.enable_grad():
        return torch.cat(
            [jacobian_by_graph(model(example).flatten(), params) for example in inputs.split(1)]
        )


def _vectorised(
    model: nn.Module, names: Sequence[str], params: Sequence[Tensor], inputs: Tensor
) -> Tensor:
    frozen = {name: parameter.detach() for name, parameter in zip(names, params, strict=True)}

    def outputs(variables: dict[str, Tensor], example: Tensor) -> Tensor:
        return outputs_at(model, variables, example[None]).flatten()

    parts = vmap(jacrev(outputs), in_dims=(None, 0), randomness="error")(frozen, inputs)
    return torch.cat(
        [parts[name].reshape(*parts[name].shape[:2], -1) for name in names], dim=-1
    ).flatten(0, 1)


def _by_rows(outputs: Tensor, params: Sequence[Tensor]) -> Tensor:
    """J'e_i for every output."""
    identity = torch.eye(outputs.numel(), dtype=outputs.dtype, device=outputs.device)

    def rows(vectors: Tensor, many: bool = True) -> Tensor:
        return pullback([outputs], params, [vectors], vectors.shape[:-1], many)

    return torch.cat(
        [batched(rows, lambda v: rows(v, False), part) for part in identity.split(CHUNK)]
    )


def _by_columns(outputs: Tensor, params: Sequence[Tensor], size: int) -> Tensor:
    """J e_j for every parameter, by differentiating u -> J'u."""
    dual = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, params, dual, create_graph=True, materialize_grads=True)
    linked = [part for part in pulled if part.requires_grad]
    identity = torch.eye(size, dtype=outputs.dtype, device=outputs.device)

    def rows(vectors: Tensor, many: bool = True) -> Tensor:
        chosen = [
            v for v, g in zip(unflatten(vectors, params), pulled, strict=True) if g.requires_grad
        ]
        (pushed,) = torch.autograd.grad(
            linked, dual, chosen, retain_graph=True, materialize_grads=True, is_grads_batched=many
        )
        return pushed

    return torch.cat(
        [batched(rows, lambda v: rows(v, False), part) for part in identity.split(CHUNK)]
    ).T
