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
TELEMETRY = ("telemetry", "telemetry_products")  # decisive too where telemetry is on
FEWEST_PRODUCTS = 10
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One run: the resolved configuration, the names it was chosen by, and the circumstances it runs under.

    Attributes:
        config: the resolved configuration, plain containers only.
        optimizer, task, experiment: the names of the YAML files that were chosen, an optimizer's
            with the `name` that is one of its settings. A task that a file of the user's makes has
            that file's name, and the digest of its content among its settings.
        results: the folder of all results.
        command: what repeats this run.
        workers: how many runs share the machine.
        world_size: how many processes carry it out together.
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
        self._require(
            "steps", "a whole number above 0", lambda value: _is(value, int) and value > 0
        )
        self._require(
            "log_every",
            "a whole number above 0 or null",
            lambda v: v is None or (_is(v, int) and v > 0),
        )
        for limit in ("max_seconds", "max_grad_equivalents", "clip_grad_norm"):
            self._require(
                limit,
                "a number above 0 or null",
                lambda v: v is None or (_is(v, int, float) and v > 0),
            )
        self._require(
            "accumulate", "a whole number above 0", lambda value: _is(value, int) and value > 0
        )
        self._require(
            "timeout", "a number above 0", lambda value: _is(value, int, float) and value > 0
        )
        self._require(
            "target", "a number or null", lambda value: value is None or _is(value, int, float)
        )
        self._require("seed", "a whole number", lambda value: _is(value, int))
        self._require(
            "allow",
            "a list of modules, as in allow=[my_package]",
            lambda value: isinstance(value, list),
        )
        self._require(
            "telemetry_products", f"a whole number, at least {FEWEST_PRODUCTS}", _enough_products
        )
        for name in ("stop_at_target", "compile", "force", "telemetry"):
            self._require(name, "true or false", lambda value: isinstance(value, bool))

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

        Telemetry changes no step, but a record without it is not what a run with it is asked for.
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
        """Where the run's record is."""
        return self.results / "runs" / self.task / self.optimizer / self.run_id

    @property
    def title(self) -> str:
        """The run in a few words."""
        together = f", {self.world_size} ranks" if self.world_size > 1 else ""
        return f"{self.optimizer} on {self.task}, seed {self.seed}{together}"


def _is(value: Any, *kinds: type) -> bool:
    """Whether a value is a number of one of these kinds; true and false are none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _enough_products(value: Any) -> bool:
    return _is(value, int) and bool(value >= FEWEST_PRODUCTS)


def without_descriptions(value: Any) -> Any:
    """A search space says where to look for a value, not what was computed."""
    return (
        {key: item for key, item in value.items() if key not in DESCRIPTIVE}
        if isinstance(value, Mapping)
        else value
    )


MODES = ("offline", "online", "disabled")
