"""The only import of torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def torchvision_datasets() -> ModuleType:
    """The module `torchvision.datasets`, also if torchvision's compiled part does not fit torch.

    The package index has torchvision built for CUDA. Beside a CPU build of torch its compiled part
    does not load, and the import stops at two missing operators. These are declared first, and
    never called.
    """
    if (
        "torchvision" not in sys.modules
        and torch.version.cuda is None
        and not _compiled_part_loads()
    ):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            library.define(name + SIGNATURE)
        _declared.append(library)
    return importlib.import_module("torchvision.datasets")


_declared: list[torch.library.Library] = []  # a collected Library removes its operators


def _compiled_part_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for compiled in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(str(compiled))
            except OSError:
                return False
    return True
