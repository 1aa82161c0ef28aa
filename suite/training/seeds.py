"""Random streams by name, so that no part of a run draws from another's numbers."""

from hashlib import sha256


def stream(seed: int, name: str) -> int:
    """The 62-bit seed of a stream (model, data, optimizer, ...), from the run's seed."""
    return int.from_bytes(sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 2
