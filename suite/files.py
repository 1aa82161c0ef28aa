"""Files: a digest, atomic writes, JSON without what JSON does not have."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any


def digest(value: Any, length: int = 8) -> str:
    """Hex digits of a hash over a plain value; the order of keys does not matter."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:length]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: neither a reader nor a kill meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's own mode would hide results from others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(value: Mapping[str, Any]) -> str:
    """JSON with null for numbers that are not finite, which JSON does not have."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
