"""The plan of one run: the composed configuration, checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.config import device, overrides, task_file
from suite.config.instantiate import DESCRIPTIVE
from suite.errors import ConfigError, require_one_of
from suite.files import digest

DECISIVE = (
    "optimizer",
    "task",
    "schedule",
    "seed",
    "steps",
    "max_seconds",
    "max_grad_equivalents",
    "target",
    "stop_at_target",
    "precision",
    "compile",
)
UNLESS = {"accumulate": 1, "clip_grad_norm": None}  # decisive where they differ from this
MODES = ("offline", "online", "disabled")  # of W&B
TELEMETRY = ("telemetry", "telemetry_products")  # decisive too where telemetry is on
FEWEST_PRODUCTS = 10
Config = Mapping[str, Any]


def _is(value: Any, *kinds: type) -> bool:
    """Whether a value is a number of one of these kinds; true and false are none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is(value, int) and bool(value > 0)


def _is_positive(value: Any) -> bool:
    return _is(value, int, float) and bool(value > 0)


def _is_limit(value: Any) -> bool:
    return value is None or _is_positive(value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


Check = tuple[str, Callable[[Any], bool]]  # what a value must be, in words and as a test
CHECKS: Mapping[str, Check] = {
    "steps": ("a whole number above 0", _is_count),
    "log_every": ("a whole number above 0 or null", lambda v: v is None or _is_count(v)),
    **dict.fromkeys(
        ("max_seconds", "max_grad_equivalents", "clip_grad_norm"),
        ("a number above 0 or null", _is_limit),
    ),
    "accumulate": ("a whole number above 0", _is_count),
    "timeout": ("a number above 0", _is_positive),
    "target": ("a number or null", lambda v: v is None or _is(v, int, float)),
    "seed": ("a whole number", lambda v: _is(v, int)),
    "allow": ("a list of modules, as in allow=[my_package]", lambda v: isinstance(v, list)),
    "telemetry_products": (
        f"a whole number, at least {FEWEST_PRODUCTS}",
        lambda v: _is(v, int) and v >= FEWEST_PRODUCTS,
    ),
    **dict.fromkeys(
        ("stop_at_target", "compile", "force", "telemetry"), ("true or false", _is_truth)
    ),
}


@dataclass(frozen=True)
class Plan:
    """One run: its resolved configuration, the names of its YAML files, and its circumstances.

    Attributes:
        config: the resolved configuration, plain containers only.
        optimizer, task, experiment: the names of the YAML files that were chosen, an optimizer's
            with the `name` that is one of its settings. A task made by a file of the user's has the
            name of the file, and the digest of its content among its settings.
        results: the folder of all results.
        command: what repeats this run.
        workers: how many runs share the machine.
        world_size: how many processes share the run.
        number, total: the run's place in a sweep, from 1.
    """

    config: Config
    optimizer: str
    task: str
    experiment: str | None
    results: Path
    command: str
    workers: int = 1
    world_size: int = 1
    number: int = 1
    total: int = 1

    def __post_init__(self) -> None:
        node = self.config["task"]
        object.__setattr__(self, "task", task_file.name_of(self.task, node))
        object.__setattr__(
            self, "optimizer", overrides.label(self.optimizer, self.config["optimizer"])
        )
        object.__setattr__(self, "config", {**self.config, "task": task_file.digested(node)})
        require_one_of("precision", self.config["precision"], ("auto", *device.PRECISIONS))
        require_one_of("wandb.mode", self.config["wandb"]["mode"], MODES)
        for name, (kind, holds) in CHECKS.items():
            self._require(name, kind, holds)

    def _require(self, name: str, what: str, holds: Callable[[Any], bool]) -> None:
        if not holds(self.config[name]):
            raise ConfigError(f"{name} must be {what}, got {self.config[name]!r}")

    @property
    def steps(self) -> int:
        """The length of the run in optimizer steps."""
        return int(self.config["steps"])

    @property
    def seed(self) -> int:
        """The integer that all of the run's random streams come from."""
        return int(self.config["seed"])

    @property
    def precision(self) -> str | None:
        """float32, float64 or bf16, or None for the task's own."""
        name = str(self.config["precision"])
        return None if name == "auto" else name

    @property
    def run_id(self) -> str:
        """8 hex digits over all that determines the record: the same run has the same id.

        Telemetry changes no step, but a record without it does not replace one with it.
        """
        decisive = (*DECISIVE, *TELEMETRY) if self.config["telemetry"] else DECISIVE
        identity = {name: without_descriptions(self.config[name]) for name in decisive}
        identity["task"] = task_file.identifying(identity["task"])
        identity |= {
            name: self.config[name] for name, usual in UNLESS.items() if self.config[name] != usual
        }
        if self.world_size > 1:
            identity["world_size"] = self.world_size
        kind = device.choose(self.config["device"]).type
        return digest({**identity, "kind": kind})

    @property
    def directory(self) -> Path:
        """The folder of the run's record."""
        return self.results / "runs" / self.task / self.optimizer / self.run_id

    @property
    def title(self) -> str:
        """The run in a few words."""
        together = f", {self.world_size} ranks" if self.world_size > 1 else ""
        return f"{self.optimizer} on {self.task}, seed {self.seed}{together}"


def without_descriptions(value: Any) -> Any:
    """A node without its descriptions: a search space changes no computed value."""
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key not in DESCRIPTIVE}
