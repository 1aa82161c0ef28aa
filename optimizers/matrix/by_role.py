"""Two optimizers for one model: one for the hidden matrices, one for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.errors import Unsupported
from optimizers.method import Method
from optimizers.objective import Objective
from optimizers.roles import Role, roles

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class ByRole(Method):
    """Hidden matrices go to one torch optimizer, embeddings, output layer and vectors to another, as Muon asks for.

    A convolution's kernel (out, in, height, width) is handed over as the matrix (out, in * height * width) that shares
    its memory (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks").

    Cost and state: those of the two optimizers on their parts.

    Args:
        params: pairs of name and parameter, in the model's order; without names no embedding can be told.
        hidden: makes the optimizer of the hidden matrices, `functools.partial(torch.optim.Muon, lr=0.02)` for one.
        rest: makes the optimizer of all other parameters.

    Raises:
        ValueError: more than one parameter group.
        Unsupported: the model has no hidden matrix.
    """

    needs = frozenset({"matrices"})

    def __init__(self, params: Iterable[Any], hidden: Factory, rest: Factory) -> None:
        super().__init__(params, {})
        if len(self.param_groups) != 1:
            raise ValueError("ByRole makes its own two groups; pass all parameters in one, with their names")
        named = list(zip(self.names(), self.parameters(), strict=True))
        role_of = roles(named)
        chosen = [parameter for name, parameter in named if role_of[name] is Role.HIDDEN]
        if not chosen:
            raise Unsupported(
                "this optimizer is for hidden matrices; the model has none beside embedding and output layer"
            )
        self._matrices = [(parameter, nn.Parameter(parameter.detach().flatten(1))) for parameter in chosen]
        self.hidden = hidden([matrix for _, matrix in self._matrices])
        self.rest = rest([parameter for name, parameter in named if role_of[name] is not Role.HIDDEN])
        self._adopt()

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        for parameter, matrix in self._matrices:
            matrix.data = parameter.detach().flatten(1)
            matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        self.hidden.step()
        self.rest.step()
        for parameter, matrix in self._matrices:
            if matrix.data_ptr() != parameter.data_ptr():  # flatten had to copy (channels_last)
                parameter.copy_(matrix.view_as(parameter))
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"hidden": self.hidden.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.hidden.load_state_dict(state_dict["hidden"])
        self.rest.load_state_dict(state_dict["rest"])
        self._adopt()

    def _adopt(self) -> None:
        """Show the groups and states of both, so that schedules and memory counts see them."""
        self.param_groups = self.hidden.param_groups + self.rest.param_groups
