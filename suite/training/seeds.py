"""One integer, hashed into named streams, so that no part of a run draws from another's numbers."""

from hashlib import sha256


def stream(seed: int, name: str) -> int:
    """A 62-bit seed that is a function of the run's seed and the stream's name (model, data, optimizer, ...)."""
    return int.from_bytes(sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 2
