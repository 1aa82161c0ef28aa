"""Base of the methods with a dense inverse Hessian, and its rank-two updates."""

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
    """A method with H as an (n, n) matrix in the state of the first parameter, key `inverse`.

    The key is absent while H is the identity. The matrix has the parameters' precision, because
    `load_state_dict` casts a float64 matrix for float32 parameters. In float32 the relative
    gradient reaches about 1e-4.
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
        """The product H v, of the shape (n,)."""
        product: Tensor = self.state[self.parameters()[0]]["inverse"] @ vector
        return product

    def learn(self, s: Tensor, y: Tensor) -> None:
        """Update H with a pair; the first pair begins H as a multiple of the identity."""
        state = self.state[self.parameters()[0]]
        if not self.param_groups[0]["pairs"]:
            state["inverse"] = torch.diag((s @ y / (y @ y)).expand(len(s)))
        self.update_(state["inverse"], s, y)

    def forget(self) -> None:
        """Reset H to the identity and drop the matrix."""
        super().forget()
        self.state[self.parameters()[0]].pop("inverse", None)


def bfgs_update_(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """Set H to (I - rho s y') H (I - rho y s') + rho s s', rho = 1 / s.y, in place."""
    # Nocedal and Wright, 2006, eq. 6.17, as one product of rank two
    along, image = s @ y, inverse @ y
    half = (1 + y @ image / along) / (2 * along) * s - image / along
    inverse.addmm_(torch.stack([s, half], 1), torch.stack([half, s]))


def dfp_update_(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """Set H to H - H y y' H / y.Hy + s s' / s.y, in place (Nocedal and Wright, eq. 6.15)."""
    image = inverse @ y
    inverse.addmm_(torch.stack([s / (s @ y), -image / (y @ image)], 1), torch.stack([s, image]))
