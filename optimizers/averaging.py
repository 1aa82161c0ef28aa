"""An average of the iterates, in place of the parameters while they are evaluated."""

from __future__ import annotations

import torch

from optimizers.method import Method


class Averaging(Method):
    """A method with an average of its iterates, which takes their place while it is evaluated.

    average = xi average + (1 - xi) theta, xi = min(1 - 1 / k, averaging) in step k (Martens and
    Grosse, 2015, section 8; Polyak and Juditsky, 1992). A subclass calls `average_iterates` after
    each step and `train` at the beginning of the next; `averaging` is 0 for no average.
    """

    averaging: float

    def eval(self) -> None:
        """Put the average of the iterates, if there is one, in place of the parameters."""
        self._swap(True)

    def train(self) -> None:
        """Put the parameters back."""
        self._swap(False)

    @torch.no_grad()
    def average_iterates(self, step: int) -> None:
        """Take the parameters after step number `step`, counted from 1, into their average."""
        weight = max(1 / step, 1 - self.averaging)
        for parameter in self.parameters():
            average = self.state[parameter].setdefault("average", parameter.detach().clone())
            average.lerp_(parameter, weight)

    @torch.no_grad()
    def _swap(self, averaged: bool) -> None:
        if self.param_groups[0].setdefault("swapped", False) == averaged:
            return
        for parameter in self.parameters():
            if "average" in self.state[parameter]:
                average = self.state[parameter]["average"]
                iterate = parameter.clone()
                parameter.copy_(average)
                average.copy_(iterate)
        self.param_groups[0]["swapped"] = averaged
