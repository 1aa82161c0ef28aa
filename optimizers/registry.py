"""Optimizers by the name of their YAML in configs/optimizer/, for use without Hydra."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
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


@dataclass(frozen=True)
class MethodInfo:
    """A method of the registry.

    Attributes:
        name: its short name, for `minimize(..., method=name)`.
        target: the path of its class or function.
        family: the group of methods that it belongs to.
        description: what it is, in a line.
    """

    name: str
    target: str
    family: str
    description: str


def list_methods(pattern: str = "*") -> list[MethodInfo]:
    """The methods whose short names match a pattern, in alphabetical order.

    Args:
        pattern: a shell pattern: `"*newton*"`, `"k*"`; upper and lower case are the same.
    """
    return [_info(name) for name in names() if fnmatch(name, pattern.lower())]


def names() -> list[str]:
    """The short names of all methods."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def builder(method: str | Builder) -> Builder:
    """The class of a short name, with the values of its YAML filled in; a class or function itself.

    Raises:
        ValueError: there is no such name.
        UnsupportedError: the optimizer's values are other optimizers.
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


def _info(name: str) -> MethodInfo:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    comment = re.search(r"^#\s*(?!@package)(.+)", text, re.M)
    target = re.search(r"^_target_:\s*(\S+)", text, re.M)
    assert target is not None, f"{name} names no class"
    family = re.search(r"^about:\n(?:[ ].*\n)*?\s+family:\s*(.+)", text, re.M)
    return MethodInfo(
        name,
        target[1],
        family[1].strip() if family else _family(target[1]),
        comment[1].strip() if comment else "",
    )


def _family(target: str) -> str:
    """The family of a class by the package that holds it."""
    package, _, rest = target.partition(".")
    if package == "optimizers":
        return rest.partition(".")[0].replace("_", " ")
    return "first order"


def _flat(text: str, name: str) -> dict[str, Any]:
    """The settings of a YAML with one level, read without a YAML parser: torch is all it needs."""
    settings: dict[str, Any] = {}
    for line in re.split(r"\n(?:about|search):", text)[0].splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pair = re.fullmatch(r"(\w+):\s+(.+?)(?:\s+#.*)?", line)
        if pair is None:
            raise UnsupportedError(
                f"{name} is put together from other optimizers; build it and pass method=<a "
                "function>"
            )
        settings[pair[1]] = _value(pair[2])
    return settings


def _value(text: str) -> Any:
    python = re.sub(r"\b(true|false|null)\b", lambda word: WORDS[word[0]], text)
    try:
        return ast.literal_eval(python)
    except (ValueError, SyntaxError):  # a bare word, or a list of them
        return (
            [_value(part.strip()) for part in text[1:-1].split(",")]
            if text[0] + text[-1] == "[]"
            else text
        )
