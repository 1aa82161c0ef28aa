"""Anonymised texts: no absolute paths, no names of a user or a machine."""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.paths import ROOT

PRIVATE = frozenset(
    {"user", "username", "host", "hostname", "node", "email", "entity", "cwd", "home"}
)
POSIX = r"(?<![\w.:/~])~?(?:/[\w.@+~%-]+){2,}/?"
WINDOWS = r"(?<!\w)[A-Za-z]:(?:\\+[\w.@+~% -]+)+"
SHARED = r"(?<!\w)\\\\(?:[\w.@+~%-]+\\+)*[\w.@+~%-]+"
PATHS = re.compile("|".join((POSIX, WINDOWS, SHARED)))
# release and build name the machine
KERNEL = re.compile(r"^(\w+)-.*-(x86_64|amd64|AMD64|aarch64|arm64|i\d86)\b")
SHORTEST_NAME = 3  # of a user or a machine that is looked for in texts


class Scrubber:
    """Replaces absolute paths by their last parts: equal for equal paths, else different."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._names = re.compile(
            "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in _names()) or r"(?!)"
        )

    def __call__(self, value: Any) -> Any:
        """A value of a configuration, a summary or an environment.

        Keys that name user or machine are left out.
        """
        if isinstance(value, Mapping):
            public = {key: item for key, item in value.items() if str(key).lower() not in PRIVATE}
            return {
                key: self.platform(item)
                if key == "platform" and isinstance(item, str)
                else self(item)
                for key, item in public.items()
            }
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """A text, with nothing in it that says where it was written."""
        for folder in (str(ROOT), str(Path.home())):
            if len(Path(folder).parts) > 1:
                text = re.sub(rf"(?<![\w/]){re.escape(folder)}/(?=[\w.-]+/)", "/_/", text)
        return self._names.sub("…", PATHS.sub(lambda match: self._last(match[0]), text))

    def platform(self, text: str) -> str:
        """`Linux-x86_64-with-glibc2.36`.

        The name says system and processor, not the kernel's build.
        """
        return self.text(KERNEL.sub(r"\1-\2", text))

    def _last(self, path: str) -> str:
        name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
        candidate, number = name, 1
        while self._owners.setdefault(candidate, path) != path:
            number += 1
            candidate = f"{name}~{number}"
        return candidate


def _names() -> list[str]:
    """This machine's name and, unless it is a word like root that texts may hold, this user's."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    names = {platform.node(), platform.node().partition(".")[0], user}
    return [
        name
        for name in sorted(names, key=len, reverse=True)
        if len(name) >= SHORTEST_NAME and name not in GENERIC
    ]


GENERIC = frozenset(
    {"root", "user", "admin", "ubuntu", "runner", "localhost", "debian", "home", "none", "test"}
)
