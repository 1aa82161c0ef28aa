"""Words of a command line: own keys with their readers, the settings that remain, filters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suite.config import words
from suite.config.compose import compose_config
from suite.config.overrides import as_word
from suite.errors import ConfigError

OWN = {
    "windows": words.positive_int,
    "task": words.names,
    "out": words.folder,
    "seeds": words.whole_numbers,
}


def test_own_keys_are_read_and_the_rest_stays_as_typed() -> None:
    typed = ["task=mlp,cnn", "~tuned", "windows=3", "+optimizer.k=1", "optimizer.lr=0.1"]
    own, rest = words.read(typed, OWN)
    assert own == {"task": ["mlp", "cnn"], "windows": 3}
    assert rest == ["~tuned", "+optimizer.k=1", "optimizer.lr=0.1"]
    assert words.read([], OWN) == ({}, [])
    assert words.read(["out=~/x"], OWN)[0]["out"] == Path.home() / "x"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("quick", "'quick' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("--task", "'--task' is not of the form key=value"),
        ("windows=1 windows=2", "windows is given twice; several go with commas: windows=a,b"),
        ("steps=1 ++steps=2", "steps is given twice"),
        ("windows=0", "windows must be a whole number from 1 on, got '0'"),
        ("seeds=0,1,0", "seeds=0,1,0 has one twice"),
        ("seeds=0,b", "seeds must be whole numbers with commas between them"),
        ("windows=1.5", "windows must be a whole number from 1 on, got '1.5'"),
        ("task=mlq", "task=mlq is not one of .* Did you mean mlp"),
        ("seed=1", "seed= is not for this command: it has its own"),
        ("+seed=1", "seed= is not for this command"),
        ("~seed", "seed= is not for this command"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_word(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        words.read(typed.split(), OWN, {"seed": "it has its own"})


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_number_is_finite_and_above_zero(text: str) -> None:
    with pytest.raises(ConfigError, match="max_seconds must be a number above 0"):
        words.positive_number("max_seconds", text)
    assert words.positive_number("max_seconds", "1e-3") == 1e-3


def test_filters_come_as_words_and_as_flags() -> None:
    typed = words.filters(["scale=quick"], {"task": ["mlp", "cnn"], "experiment": None})
    assert typed == {"task": "mlp,cnn", "scale": "quick"}
    assert words.filters([], {"experiment": "quick"}) == {"experiment": "quick"}
    with pytest.raises(ConfigError, match="task is given twice"):
        words.filters(["task=mlp"], {"task": ["cnn"]})
    with pytest.raises(ConfigError, match="not of the form key=value"):
        words.filters(["quick"], {})


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 1e-3, [1, 2.5], ["a", None], {"a": 1, "b": {"c": [True]}}, {}),
        *("text", "two words", "it's", "a\\'b", "null", "1e-3", "", "a=b", "x,y", "configs/x.yaml"),
    ],
)
def test_a_value_is_typed_as_the_configuration_reads_it(value: Any) -> None:
    config, _ = compose_config([f"++extra={as_word(value)}"])
    assert config["extra"] == value


@pytest.mark.parametrize(
    "command", ["app", "tune", "time", "target", "compare", "report", "archive", "list"]
)
def test_help_waits_for_no_heavy_package(command: str) -> None:
    module = {"app": "suite"}.get(command, f"suite.{command}")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "suite" in imported
    assert "suite" in done.stdout
    assert not imported & {"torch", "optuna", "matplotlib"}
    assert command == "archive" or "pandas" not in imported
