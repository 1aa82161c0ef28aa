"""The choices of a command line in each group, and the settings that a YAML leaves open.

A choice is named on the command line, swept by its experiments, or the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from suite.config import registry, torchrun
from suite.errors import ConfigError

OFFERED = ("optimizer", "task", "schedule", "experiment")
BY_ITSELF = {  # composed by the suite for what is chosen
    "tuned": "taken by itself where suite.tune has tuned the pair; ~tuned takes none, tuned=NAME "
    "another",
    "published": "a paper's values, taken by itself in the experiments that repeat it; ~published "
    "takes none",
}
PLAIN = re.compile(r"[\w./:%+-]+(?<!:)|\$\{.*\}")  # text that Hydra reads as it stands
WIDTH = 118  # columns
BELOW = re.compile(r"(?P<group>\w+)\.(?P<key>\w+)\.[\w.]+=")  # a setting inside a setting
COMPOSED_ONCE = {
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--help",
    "-h",
    "--hydra-help",
    "--shell-completion",
    "-sc",
}


def offered(arguments: Sequence[str]) -> str:
    """The part of --help about the groups, those of the user's folders included."""
    lines = [
        fill(
            f"{group}: {', '.join(registry.names(group, folders(arguments)))}",
            WIDTH,
            subsequent_indent="  ",
        )
        for group in OFFERED
    ]
    return "\n".join([*lines, *(f"{group}: {words}" for group, words in BY_ITSELF.items())])


def chosen(group: str, arguments: Sequence[str]) -> list[str]:
    """The names of a group that the runs will have: one, or those of a sweep."""
    named = typed(group, arguments) or (swept(group, arguments) if is_sweep(arguments) else [])
    known = registry.names(group, folders(arguments))
    return [name for name in named if name in known] or _preset(group, arguments)


def typed(group: str, arguments: Sequence[str]) -> list[str]:
    """The names of a group that stand on the command line."""
    texts = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == group]
    return [name for text in texts for name in _words(text)]


def swept(group: str, arguments: Sequence[str]) -> list[str]:
    """The names of a group over which the experiments of the command line go."""
    return [word for node in experiments(arguments) for word in _words(_params(node).get(group))]


def experiments(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The experiments of the command line, as their YAML is written."""
    known = registry.names("experiment", folders(arguments))
    names = [name for name in typed("experiment", arguments) if name in known]
    return [registry.read("experiment", name, folders(arguments)) for name in names]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether Hydra will start several runs: -m, or the mode that an experiment sets."""
    if COMPOSED_ONCE & {word.partition("=")[0] for word in arguments}:
        return False
    if torchrun.SWEEPS & set(arguments):
        return True
    modes = typed("hydra.mode", arguments)
    return "MULTIRUN" in (
        modes or [str(_hydra(node).get("mode")) for node in experiments(arguments)]
    )


def deferred(arguments: Sequence[str]) -> list[str]:
    """The arguments; settings that only swept choices have become sweeps of one value.

    Before the runs of a sweep, Hydra composes it with the default optimizer and task. It would
    refuse `task.path=input.txt` there though every task of the sweep has a path. A swept setting is
    checked in the runs alone.
    """
    return (
        [_for_the_runs(word, arguments) for word in arguments]
        if is_sweep(arguments)
        else list(arguments)
    )


def opened(arguments: Sequence[str]) -> list[str]:
    """The arguments, with Hydra's sign for a new key before those that go into an empty mapping.

    `optimizer=pytorch_optimizer optimizer.settings.k=5` is meant as it stands, though the YAML has
    no `k`.
    """
    return [
        f"++{argument}" if _is_open(argument, arguments) else argument for argument in arguments
    ]


def as_word(value: Any) -> str:
    """A value as the command line has it: `null`, `[1, 2]`, `{a: 1}`, text in quotes if needed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {as_word(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_word, value))}]"
    text = str(value)
    if not isinstance(value, str) or (PLAIN.fullmatch(text) and not _is_literal(text)):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)
    return f"'{escaped}'"


def as_words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as the command line has them.

    >>> as_words({"optimizer": {"lr": 0.1}, "seed": 1, "tuned": None})
    ['optimizer.lr=0.1', 'seed=1', '~tuned']
    """
    words: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            words += as_words(value, f"{prefix}{key}.")
        elif value is None and key in BY_ITSELF:
            words.append(f"~{key}")
        else:
            words.append(f"{prefix}{key}={as_word(value)}")
    return words


def label(optimizer: str, node: Mapping[str, Any]) -> str:
    """What results and reports call an optimizer.

    The name of its YAML, with the `name` among its settings where the YAML serves many optimizers.
    """
    name = node.get("name")
    if not isinstance(name, str):
        return optimizer
    return f"{optimizer}_{re.sub(r'[^a-z0-9]+', '_', name.lower())}"


def has(node: Mapping[str, Any], key: str) -> bool:
    """Whether a YAML has the value, or the node, of a dotted name; an empty mapping has all."""
    first, _, rest = key.partition(".")
    if first not in node:
        return False
    inner = node[first]
    return not rest or inner == {} or (isinstance(inner, Mapping) and has(inner, rest))


def folders(arguments: Sequence[str]) -> list[Path]:
    """The user's configuration folders: `--config-dir PATH`, `--config-dir=PATH` or `-cd PATH`."""
    paths = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--config-dir", "-cd"):
            paths.append(Path(following))
        elif word.startswith("--config-dir="):
            paths.append(Path(word.partition("=")[2]))
    return paths


def _for_the_runs(word: str, arguments: Sequence[str]) -> str:
    name, _, value = word.partition("=")
    group, _, key = name.partition(".")
    if not value or not key or group not in registry.GROUPS or _is_swept(word):
        return word
    names = typed(group, arguments)
    before = names if len(names) == 1 else _preset(group, arguments)
    known = {name for name in before if name in registry.names(group, folders(arguments))}
    nodes = [registry.read(group, name, folders(arguments)) for name in known]
    return word if any(has(node, key) for node in nodes) else f"{name}=choice({value})"


def _is_open(argument: str, arguments: Sequence[str]) -> bool:
    """Whether the argument sets a key of a mapping that a chosen YAML leaves empty."""
    below = BELOW.match(argument)
    if below is None or below["group"] not in registry.GROUPS:
        return False
    names = chosen(below["group"], arguments)
    return any(_node(below["group"], name).get(below["key"]) == {} for name in names)


def _node(group: str, name: str) -> dict[str, Any]:
    """A YAML of the suite's; nothing for a name that has none."""
    try:
        return registry.read(group, name)
    except ConfigError:
        return {}


def _is_literal(text: str) -> bool:
    """Whether Hydra would read the text as a number, a truth value or null."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "true", "false")
    return True


def _is_swept(word: str) -> bool:
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:  # Hydra will refuse it, with a message
        return True


def _preset(group: str, arguments: Sequence[str]) -> list[str]:
    """The name that the defaults list has, an experiment's before that of the configuration."""
    entries = [
        (f"override /{group}", node.get("defaults") or []) for node in experiments(arguments)
    ]
    for key, defaults in [*entries, (group, registry.main()["defaults"])]:
        for entry in defaults:
            if isinstance(entry, dict) and entry.get(key) is not None:
                return [str(entry[key])]
    return []


def _params(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return (_hydra(node).get("sweeper") or {}).get("params") or {}


def _hydra(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return node.get("hydra") or {}


def _words(value: object) -> list[str]:
    """The names of a sweep's list, `a,b` or `choice(a,b)`."""
    text = str(value or "").strip().removeprefix("choice(").removesuffix(")")
    return [word.strip() for word in text.split(",") if word.strip()]
