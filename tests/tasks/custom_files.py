"""Files of a user's, in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.custom.custom import Custom

HEAD = "import numpy as np\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
MODEL = "model = lambda: nn.Linear(4, 3)\n"
LOSS = "loss = nn.CrossEntropyLoss()\n"
DATA = "data = torch.randn(50, 4), torch.arange(50) % 3\n"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear({inputs}, {outputs})

    def forward(self, x):
        return {result}

model = Net
"""

Make = Callable[..., Custom]


def net(result: str = "self.layer(x)", inputs: int = 4, outputs: int = 3) -> str:
    return NET.format(result=result, inputs=inputs, outputs=outputs)


def custom(folder: Path, *parts: str, **arguments: Any) -> Custom:
    """The task of a file that is written from its parts."""
    path = folder / "mine.py"
    path.write_text(HEAD + "".join(parts))
    return Custom(file=str(path), **arguments)
