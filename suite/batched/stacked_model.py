"""The stacked parameters of many replicas, and all their losses and gradients in one pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

from tasks.task import Batch

Named = dict[str, Tensor]


class StackedModel:
    """B replicas of a model: row b of a tensor `(B, ...)` is the storage of replica b's parameter.

    The replicas' models stay as they are: an optimizer that updates a parameter in place updates
    its row. One evaluation of all is `vmap` over the rows; the sum of the losses is differentiated
    once, and row b of the result is the gradient of replica b, as no loss depends on another's row.
    Buffers that batch normalisation moves, or that differ between the replicas, have rows too.

    It takes the memory of the B models, of their gradients, and of B times one evaluation's
    activations.

    Args:
        models: the replicas, all made by one task.
        loss_fn: the loss of outputs and targets, without the regulariser.
        l2: the factor of the quadratic regulariser, as an objective has it.
    """

    def __init__(self, models: Sequence[nn.Module], loss_fn: nn.Module, l2: float = 0.0) -> None:
        self.models = list(models)
        self.loss_fn = loss_fn
        self.l2 = l2
        # gives structure and modes; its own values are not used
        self._frame = copy.deepcopy(models[0])
        trained = {
            name for name, parameter in models[0].named_parameters() if parameter.requires_grad
        }
        own = [_tensors(model) for model in models]
        moving = _moving(models[0])
        self._trained = [name for name in own[0] if name in trained]
        self._others = [
            name
            for name in own[0]
            if name not in trained and (name in moving or _differ(own, name))
        ]
        self._strides: dict[str, tuple[int, ...]] = {}
        self._arrange(own)

    def _arrange(self, own: Sequence[Named]) -> None:
        """Stack the replicas' tensors and let the replicas live in the rows."""
        self._rows = {name: self._stacked(own, name) for name in (*self._trained, *self._others)}
        self._leaves = {name: self._rows[name].detach().requires_grad_() for name in self._trained}
        for number, tensors in enumerate(own):
            for name, rows in self._rows.items():
                tensors[name].data = rows[number]

    def _stacked(self, own: Sequence[Named], name: str) -> Tensor:
        values = [tensors[name].detach() for tensors in own]
        if name not in self._strides:
            return torch.stack(values)
        one = values[0]
        strides = one.numel(), *self._strides[name]
        rows = torch.empty_strided(
            (len(own), *one.shape), strides, dtype=one.dtype, device=one.device
        )
        for row, value in zip(rows, values, strict=True):
            row.copy_(value)
        return rows

    def __len__(self) -> int:
        return len(self.models)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the replicas at these places; the others get storage of their own."""
        gone = set(range(len(self))) - set(places)
        for place in gone:
            for name, tensor in _tensors(self.models[place]).items():
                if name in self._rows:
                    tensor.data = tensor.data.clone()
        self.models = [self.models[place] for place in places]
        if self.models:
            self._arrange([_tensors(model) for model in self.models])

    def follow_gradients(self, batches: Sequence[Batch]) -> None:
        """Lay the parameters out in memory as their gradients are, so that none is copied.

        A layer's backward pass often gives the transpose of its weights' layout. Only updates
        element by element allow it: another optimizer may count on contiguous parameters.
        """
        before = {name: self._rows[name].clone() for name in self._others}
        _, gradients = self._evaluated(batches)
        for name, value in before.items():  # running statistics, which must not move here
            self._rows[name].copy_(value)
        for name, gradient in zip(self._trained, gradients, strict=True):
            if gradient is not None and _dense(gradient[0]):
                self._strides[name] = gradient.stride()[1:]
        self._arrange([_tensors(model) for model in self.models])

    def losses_and_gradients(self, batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor | None]]:
        """Losses (B,) and the gradient by each stacked parameter, None where no loss depends on it.

        `batches` are the replicas' mini-batches; where all are one and the same it is not copied.
        Rows of a gradient lie in memory as the parameters do.
        """
        losses, gradients = self._evaluated(batches)
        pairs = zip(gradients, self._leaves.values(), strict=True)
        return losses, [_laid_out(gradient, leaf) for gradient, leaf in pairs]

    def _evaluated(self, batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor | None]]:
        inputs, targets, rows = _joined(batches)
        self._frame.train(self.models[0].training)
        others = {name: self._rows[name] for name in self._others}
        with torch.enable_grad():
            losses = vmap(self._loss, in_dims=(0, 0, rows, rows))(
                self._leaves, others, inputs, targets
            )
            leaves = list(self._leaves.values())
            gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        return losses.detach(), list(gradients)

    def outputs(self, inputs: Tensor) -> Tensor:
        """The outputs of all replicas in evaluation mode, (B, ...), without a graph.

        The inputs are the same for all.
        """
        self._frame.eval()
        rows = {name: self._rows[name] for name in (*self._trained, *self._others)}
        with torch.no_grad():
            outputs: Tensor = vmap(self._forward, in_dims=(0, None))(rows, inputs)
        return outputs

    def _forward(self, rows: Named, inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self._frame, rows, (inputs,))
        return outputs

    def _loss(self, leaves: Named, others: Named, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.loss_fn(self._forward({**leaves, **others}, inputs), targets)
        if not self.l2:
            return loss
        squares = torch.stack([leaf.square().sum() for leaf in leaves.values()])
        return loss + self.l2 / 2 * squares.sum()


def _tensors(model: nn.Module) -> Named:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _moving(model: nn.Module) -> set[str]:
    """The names of the buffers that training moves."""
    norms = {name for name, module in model.named_modules() if isinstance(module, _NormBase)}
    return {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in norms}


def _differ(own: Sequence[Named], name: str) -> bool:
    return any(not torch.equal(own[0][name], tensors[name]) for tensors in own[1:])


def _joined(batches: Sequence[Batch]) -> tuple[Tensor, Tensor, int | None]:
    """Inputs and targets, with the dimension that counts the replicas."""
    inputs, targets = batches[0]
    if all(other[0] is inputs and other[1] is targets for other in batches):
        return inputs, targets, None
    return (
        torch.stack([batch[0] for batch in batches]),
        torch.stack([batch[1] for batch in batches]),
        0,
    )


def _laid_out(gradient: Tensor | None, leaf: Tensor) -> Tensor | None:
    if gradient is None or gradient.stride()[1:] == leaf.stride()[1:]:
        return gradient
    return torch.empty_like(leaf).copy_(gradient)


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers fill its memory without a gap, in whatever order."""
    return torch.empty_like(tensor).stride() == tensor.stride()
