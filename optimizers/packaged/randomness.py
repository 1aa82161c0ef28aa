"""One source of random numbers, where a package draws from three."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def one_source() -> Iterator[None]:
    """Python's and numpy's global generators continue torch's, and are afterwards as they were.

    A seed of torch's then decides everything, and a checkpoint of its state is a checkpoint of all
    of them.
    """
    seed = int(torch.randint(2**31, ()))
    numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
    own, others = random.getstate(), None if numpy is None else numpy.get_state()
    random.seed(seed)
    if numpy is not None:
        numpy.seed(seed)
    try:
        yield
    finally:
        random.setstate(own)
        if numpy is not None:
            numpy.set_state(others)
