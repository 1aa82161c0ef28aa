"""The data sets in the repository: xz files beside this one, from scripts/make_data.py."""

from __future__ import annotations

import lzma
from pathlib import Path

from tasks.data.store import read_verified

SHA256 = {
    "cmudict_small.txt.xz": "738d91c3dfcad30d9116e91ad2af1eee28cc96daf77d71e86181106d2e8ca318",
    "fashion_mnist_small.xz": "0f3f33b32f4431f7d6817dbff2fddd41212a1a9ec5ac5499f15ee5122a7cd3fc",
    "moby_dick.txt.xz": "3239f5dc892199087d0669c80f5810401509edd0ae6ecfbb9b19913f2b556039",
    "nist_strd.xz": "f87234849fd5a5133c86d7c612593038969952f07db6fb7eed3584c3b1a83d2e",
}


def read_vendored(name: str) -> bytes:
    """The decompressed content of a vendored file.

    Raises:
        DataCorruptError: the compressed file is not the recorded one.
    """
    return lzma.decompress(read_verified(Path(__file__).with_name(name), SHA256[name]))
