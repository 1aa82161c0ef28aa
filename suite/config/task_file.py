"""A task whose settings name a Python file of the user's.

What it is called, and what its content adds to a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from suite.config import registry

Node = Mapping[str, Any]


def name_of(task: str, node: Node) -> str:
    """What results and reports call the task: its YAML's name, or that of the file that makes it.

    A file that is called like a task of the suite's is not taken for it.
    """
    if not node.get("file"):
        return task
    stem = Path(str(node["file"])).stem
    return f"my_{stem}" if stem in registry.names("task") else stem


def identifying(node: Node) -> Node:
    """The settings that make a task what it is.

    The content of its file, wherever that lies and however it is typed.
    """
    return (
        {key: value for key, value in node.items() if key != "file"} if node.get("digest") else node
    )


def digested(node: Node) -> Node:
    """The task's settings with digits of the SHA-256 of their file, so that a run of an edited file is another run.

    Tasks without `file` and `digest` stay as they are, and so does one whose file is absent: it
    complains itself.
    """
    if not node.get("file") or "digest" not in node:
        return node
    from tasks.custom.source import DIGITS  # which brings in torch, and the report does without

    path = Path(str(node["file"])).expanduser()
    return (
        {**node, "digest": sha256(path.read_bytes()).hexdigest()[:DIGITS]}
        if path.is_file()
        else node
    )
