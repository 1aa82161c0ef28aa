"""The base of the methods that keep a dense inverse Hessian, and its rank-two updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_dense, require_range
from optimizers.phases import phased
from optimizers.quasi_newton.line_searched import LineSearched

INSTEAD = "lbfgs needs 2 * history vectors"


class DenseInverse(LineSearched):
    """H as an (n, n) matrix in the state of the first parameter, key `inverse`.

    Absent while H is the identity.

    The matrix has the parameters' precision: a float64 matrix for float32 parameters would not
    survive `load_state_dict`, which casts. In float32 a relative gradient of about 1e-4 is what can
    be reached.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        line_search: str = "strong_wolfe",
        curvature: float = 0.9,
        damping: float = 0.0,
        skip: float = 1e-8,
        max_trials: int = 25,
        max_parameters: int = 5000,
    ) -> None:
        require_range("max_parameters", max_parameters, low=1, whole=True)
        super().__init__(params, lr, line_search, curvature, damping, skip, max_trials)
        require_dense(self, max_parameters, INSTEAD, self.parameters()[0].element_size())

    @staticmethod
    @abstractmethod
    def update_(inverse: Tensor, s: Tensor, y: Tensor) -> None:
        """Change H in place so that H y = s."""

    @phased("precondition")
    def apply(self, vector: Tensor) -> Tensor:
        product: Tensor = self.state[self.parameters()[0]]["inverse"] @ vector
        return product

    def learn(self, s: Tensor, y: Tensor) -> None:
        state = self.state[self.parameters()[0]]
        if not self.param_groups[0]["pairs"]:
            state["inverse"] = torch.diag((s @ y / (y @ y)).expand(len(s)))
        self.update_(state["inverse"], s, y)

    def forget(self) -> None:
        super().forget()
        self.state[self.parameters()[0]].pop("inverse", None)


def bfgs_update_(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """H <- (I - rho s y') H (I - rho y s') + rho s s', rho = 1 / s.y (Nocedal and Wright, 2006, eq. 6.17), in place."""
    along, image = s @ y, inverse @ y
    half = (1 + y @ image / along) / (2 * along) * s - image / along
    inverse.addmm_(torch.stack([s, half], 1), torch.stack([half, s]))


def dfp_update_(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """H <- H - H y y' H / y.Hy + s s' / s.y (Nocedal and Wright, 2006, eq. 6.15), in place."""
    image = inverse @ y
    inverse.addmm_(torch.stack([s / (s @ y), -image / (y @ image)], 1), torch.stack([s, image]))
