"""The experiments: each composes, runs pairs that exist, and takes the settings that are written
down for its pairs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from suite import paths
from suite.config import registry
from suite.config.compose import compose_config

SCRIPT = (paths.ROOT / "scripts" / "experiments.sh").read_text(encoding="utf-8")


def swept(name: str) -> dict[str, list[str]]:
    """What an experiment sweeps over, values as text."""
    params = registry.read("experiment", name)["hydra"]["sweeper"]["params"]
    return {key: str(value).split(",") for key, value in params.items()}


def composed(*overrides: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(compose_config(overrides)[0], resolve=True)
    return dict(config)


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_an_experiment_sweeps_over_tasks_and_optimizers_that_exist(name: str) -> None:
    params = swept(name)
    assert set(params["task"]) <= set(registry.names("task"))
    assert set(params["optimizer"]) <= set(registry.names("optimizer"))


@pytest.mark.parametrize("name", registry.names("published"))
def test_published_settings_belong_to_a_run_of_their_experiment_and_take_effect(name: str) -> None:
    fitting = [
        (experiment, task, optimizer)
        for experiment in registry.names("experiment")
        for task in swept(experiment)["task"]
        for optimizer in swept(experiment)["optimizer"]
        if f"{experiment}_{task}_{optimizer}" == name
    ]
    assert len(fitting) == 1, f"configs/published/{name}.yaml is for no run of an experiment"
    experiment, task, optimizer = fitting[0]
    settings = registry.read("published", name)
    with_it = composed(
        f"experiment={experiment}", f"task={task}", f"optimizer={optimizer}", "scale=small"
    )
    without = composed(f"task={task}", f"optimizer={optimizer}", "scale=small")
    for key, value in settings.items():
        expected = value if isinstance(value, dict) else {key: value}
        node = with_it[key] if isinstance(value, dict) else with_it
        fixed = {name: one for name, one in expected.items() if not str(one).startswith("${")}
        assert {name: node[name] for name in fixed} == fixed
    assert with_it != without


@pytest.mark.parametrize("name", registry.names("published"))
def test_published_settings_say_where_they_come_from(name: str) -> None:
    text = (paths.CONFIGS / "published" / f"{name}.yaml").read_text()
    first, second = text.splitlines()[:2]
    assert first == "# @package _global_"
    assert re.match(r"# .*(published|Not (published|from a paper)|rate|method|setting)", second)


def test_the_script_knows_experiments_that_exist_and_every_sweep_beyond_its_file() -> None:
    named = re.findall(r"^    sweep ([a-z_]+)", SCRIPT, re.MULTILINE)
    assert set(named) <= set(registry.names("experiment"))
    offered = re.search(r"name experiments: ([a-z_ ]+)", SCRIPT)
    assert offered is not None
    assert set(offered[1].split()) <= set(registry.names("experiment"))
    functions = set(re.findall(r"^([a-z_]+)\(\) \{", SCRIPT, re.MULTILINE)) - {"sweep", "timed"}
    assert functions == set(named)


def test_every_experiment_gives_its_parameters_as_settings_that_exist() -> None:
    for name in registry.names("experiment"):
        params = swept(name)
        task, optimizer = params["task"][0], params["optimizer"][0]
        config = composed(f"task={task}", f"optimizer={optimizer}")
        for key in params:
            if "." in key:
                group, _, setting = key.partition(".")
                assert setting in config[group], f"{name}: {key}"


def test_yaml_comments_of_experiments_say_what_they_are() -> None:
    for name in registry.names("experiment"):
        text = (paths.CONFIGS / "experiment" / f"{name}.yaml").read_text()
        assert text.startswith("# @package _global_\n# ")
        assert yaml.safe_load(text)["hydra"]["mode"] == "MULTIRUN"
