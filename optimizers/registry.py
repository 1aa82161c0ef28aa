"""Optimizers by the name of their YAML in configs/optimizer/, for use without Hydra."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from optimizers.errors import UnsupportedError

PACKAGES = Path(__file__).resolve().parent.parent
INSTALLED = PACKAGES / "suite" / "configs"  # a wheel's; a checkout has them beside its packages
FOLDER = (INSTALLED if INSTALLED.is_dir() else PACKAGES / "configs") / "optimizer"
WORDS = {"true": "True", "false": "False", "null": "None"}

Builder = Callable[..., Any]


def names() -> list[str]:
    """The names there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def builder(method: str | Builder) -> Builder:
    """The class that a name stands for, with the values of its YAML filled in.

    A class or function is its own.

    Raises:
        ValueError: there is no such name.
        UnsupportedError: the optimizer is put together from others and cannot be made from plain values.
    """
    if not isinstance(method, str):
        return method
    path = FOLDER / f"{method}.yaml"
    if not path.exists():
        close = get_close_matches(method, names(), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"there is no method {method!r}.{hint} There are: {', '.join(names())}; or pass a class"
        )
    settings = _flat(path.read_text(encoding="utf-8"), method)
    module, _, title = str(settings.pop("_target_")).rpartition(".")
    return partial(getattr(import_module(module), title), **settings)


def _flat(text: str, name: str) -> dict[str, Any]:
    """The keys of a YAML that has one level, `about` and `search` apart (a YAML parser would be a dependency)."""
    settings: dict[str, Any] = {}
    for line in re.split(r"\n(?:about|search):", text)[0].splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"(\w+):\s+(.+?)(?:\s+#.*)?", line)
        if found is None:
            raise UnsupportedError(
                f"{name} is put together from other optimizers; build it and pass method=<a "
                f"function>"
            )
        settings[found[1]] = _value(found[2])
    return settings


def _value(text: str) -> Any:
    python = re.sub(r"\b(true|false|null)\b", lambda found: WORDS[found[0]], text)
    try:
        return ast.literal_eval(python)
    except (ValueError, SyntaxError):  # a bare word, or a list of them
        return (
            [_value(part.strip()) for part in text[1:-1].split(",")]
            if text[0] + text[-1] == "[]"
            else text
        )
