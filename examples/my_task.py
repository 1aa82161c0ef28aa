"""Which optimizer for my model? `python -m suite task=custom task.file=examples/my_task.py
optimizer=adamw`"""

import torch
from torch import nn


class Classifier(nn.Module):
    """Two hidden layers."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.head = nn.Linear(64, 3)

    def forward(self, inputs):
        return self.head(self.hidden(inputs))


def spirals(count=3000, arms=3, noise=0.1):
    """Points on the arms of a spiral, and the number of the arm."""
    arm = torch.arange(count) % arms
    turn = torch.rand(count)
    angle = 2 * torch.pi * (turn + arm / arms)
    points = torch.stack([angle.cos(), angle.sin()], dim=1) * (0.2 + 2 * turn[:, None])
    return points + noise * torch.randn(count, 2), arm


# The three names that are needed:
model = Classifier  # a class, or a function without arguments, that gives a new nn.Module
loss = nn.CrossEntropyLoss()  # a torch loss, or a function of (outputs, targets)
data = spirals()  # (inputs, targets); or {"train": (x, y), "val": ..., "test": ...}


# And what may be added:
def accuracy(outputs, targets):
    return outputs.argmax(1) == targets


metric = accuracy
direction = "max"
batch_size = 100  # None is the full batch
