"""The folders of YAML as a registry: the optimizers, the tasks, and the pairs that fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from suite.config.instantiate import PACKAGED
from suite.errors import ConfigError
from suite.paths import CONFIGS

FIRST_ORDER, OTHER = "first order", "other"
GROUPS = ("optimizer", "task", "schedule", "tuned", "published", "experiment")
FAMILIES = (  # in the order in which tables and legends list them
    FIRST_ORDER,
    "quasi newton",
    "newton",
    "least squares",
    "krylov",
    "natural gradient",
    "matrix",
    "diagonal",
    "online",
    "low rank",
    "step size",
    "structured",
    "trust region",
    "packaged",
    OTHER,
)
Folders = tuple[Path, ...]


@cache
def main() -> dict[str, Any]:
    """configs/config.yaml as it is written."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    return content


def names(group: str, folders: Iterable[Path] = ()) -> list[str]:
    """The names of a group's YAML files, ours and those in the user's own configuration folders."""
    paths = (path for folder in (CONFIGS, *folders) for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in paths})


def read(group: str, name: str, folders: Iterable[Path] = ()) -> dict[str, Any]:
    """One YAML as it is written, interpolations unresolved.

    No name is in two folders (see `messages.refuse_shadowed`).
    """
    for folder in (*folders, CONFIGS):
        path = folder / group / f"{name}.yaml"
        if path.exists():
            content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
            return content
    raise ConfigError(f"there is no {group}/{name}.yaml")


def description(group: str, name: str, folders: Iterable[Path] = ()) -> str:
    """The comment on the first lines of a YAML, package directives left out."""
    for folder in (*folders, CONFIGS):
        path = folder / group / f"{name}.yaml"
        if path.exists():
            lines = [
                line
                for line in path.read_text().splitlines()
                if line.startswith("#") and "@package" not in line
            ]
            return re.sub(r"\s+", " ", " ".join(line.lstrip("# ") for line in lines[:1]))
    return ""


def tasks_offering(
    needs: frozenset[str], folders: Sequence[Path] = (), allow: Sequence[str] = ()
) -> list[str]:
    """The tasks that offer all that an optimizer needs."""
    return [
        name
        for name in names("task", folders)
        if needs <= _offers(name, tuple(folders), tuple(allow))
    ]


def family(node: Mapping[str, Any]) -> str:
    """The family of an optimizer: the one its YAML names, else its folder of `optimizers`.

    An optimizer of a packaged library is first order, any other one `other`.
    """
    target = str(node.get("_target_"))
    parts = target.split(".")
    if "family" in about(node):
        return str(about(node)["family"])
    if parts[0] == "optimizers" and len(parts) > 2:
        return parts[1].replace("_", " ")
    return FIRST_ORDER if target.startswith(PACKAGED) else OTHER


def about(node: Mapping[str, Any]) -> dict[str, Any]:
    """The descriptions in an optimizer's YAML: its `paper`, and `state`, the numbers it stores."""
    return node.get("about") or {}


@cache
def _offers(task: str, folders: Folders, allow: tuple[str, ...]) -> frozenset[str]:
    from suite.config.instantiate import locate

    try:
        kind = locate(str(read("task", task, folders)["_target_"]), allow)
    except (ConfigError, KeyError):
        return frozenset()
    offers: frozenset[str] = getattr(kind, "offers", frozenset())
    return offers


def family_rank(family: str) -> int:
    """The place of a family in the tables: first order on top, unlisted families at the end."""
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
