"""A task made by a Python file of the user's: its name, and the digest of its content."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from suite.config import registry

Node = Mapping[str, Any]


def name_of(task: str, node: Node) -> str:
    """The task's name in results and reports: that of its YAML, or of the file that makes it.

    A file with the name of a task of the suite's gets `my_` before it.
    """
    if not node.get("file"):
        return task
    stem = Path(str(node["file"])).stem
    return f"my_{stem}" if stem in registry.names("task") else stem


def identifying(node: Node) -> Node:
    """The settings that identify a task: of a file its content, not its path."""
    if not node.get("digest"):
        return node
    return {key: value for key, value in node.items() if key != "file"}


def digested(node: Node) -> Node:
    """The task's settings with the digest of their file: a run of an edited file is another run.

    Tasks without `file` and `digest` stay as they are, and so does a task whose file is absent: it
    raises its own error.
    """
    if not node.get("file") or "digest" not in node:
        return node
    from tasks.custom.source import DIGITS  # which brings in torch, and the report does without

    path = Path(str(node["file"])).expanduser()
    if not path.is_file():
        return node
    return {**node, "digest": sha256(path.read_bytes()).hexdigest()[:DIGITS]}
