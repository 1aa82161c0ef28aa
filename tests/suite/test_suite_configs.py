"""Every YAML there is: it composes, its keys exist, it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from optimizers.schedules import warmup
from suite import paths
from suite.config import registry
from suite.config.instantiate import RESERVED, check_names, locate
from suite.training.runner import build_task

Train = Callable[..., Any]

# of the tasks on which every optimizer is tried, so that the largest methods end in a second
SIZES = {
    "quadratic": ("task.dimension=10",),
    "logistic": (),
    "mlp": ("task.hidden=[4]", "task.val_size=50", "task.test_size=50"),
}
ALL_OPTIMIZERS = {"sgd", "momentum", "adamw", "torch_lbfgs", "muon", "kfac", "ggn_cg", "newton"}


def needs(optimizer: str) -> frozenset[str]:
    """What an optimizer asks of a task beyond gradients, as its class declares it."""
    kind = locate(registry.read("optimizer", optimizer)["_target_"])
    declared: frozenset[str] = getattr(kind, "needs", frozenset())
    return declared


def arguments(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in RESERVED}


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_every_optimizer_runs_where_the_task_offers_what_it_needs(
    train: Train, planned: Train, optimizer: str, task: str
) -> None:
    overrides = (
        f"optimizer={optimizer}",
        f"task={task}",
        *SIZES[task],
        "steps=3",
        "task.eval_every=3",
        "~tuned",
    )
    offers = build_task(planned(*overrides), torch.device("cpu")).offers
    missing = needs(optimizer) - offers

    done = train(*overrides)

    if missing:
        assert done.status == "unsupported"
        assert all(word in done.summary["message"] for word in missing)
    else:
        assert (done.status, done.summary["message"], done.summary["steps"]) == ("done", "", 3)
        assert done.summary["counts"]["value"] >= 3


def test_every_optimizer_fits_some_task_of_those_it_is_tried_on(planned: Train) -> None:
    offers = [
        build_task(planned(f"task={t}", *SIZES[t]), torch.device("cpu")).offers for t in SIZES
    ]
    assert all(
        any(needs(name) <= offered for offered in offers) for name in registry.names("optimizer")
    )


@pytest.mark.parametrize("optimizer", ["adam", "kfac"])
@pytest.mark.parametrize("task", [name for name in registry.names("task") if name not in SIZES])
def test_every_task_trains(train: Train, planned: Train, task: str, optimizer: str) -> None:
    overrides = (f"optimizer={optimizer}", f"task={task}", "steps=2", "task.eval_every=2", "~tuned")
    done = train(*overrides)

    offers = build_task(planned(*overrides), torch.device("cpu")).offers
    assert done.status == ("done" if needs(optimizer) <= offers else "unsupported")
    if done.status == "done":
        assert done.rows[-1][f"test/{done.outcome.metric}"] != ""


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_an_optimizers_yaml_gives_arguments_and_a_search_space_of_them(name: str) -> None:
    node = registry.read("optimizer", name)
    check_names(locate(node["_target_"]), node["_target_"], arguments(node))
    assert registry.description("optimizer", name).endswith(".")
    assert node["search"]
    for key, space in node["search"].items():
        inner = node
        for part in key.split("."):
            assert part in inner, key
            inner = inner[part]
        if "choices" in space:
            assert len(set(space["choices"])) == len(space["choices"]) > 1
        else:
            assert 0 < space["low"] < space["high"]
            assert set(space) <= {"low", "high", "log"}


@pytest.mark.parametrize("scale", ["quick", "small", "full"])
@pytest.mark.parametrize("name", registry.names("task"))
def test_a_tasks_yaml_resolves_at_every_scale(planned: Train, name: str, scale: str) -> None:
    node = planned(f"task={name}", f"scale={scale}").config["task"]

    check_names(locate(node["_target_"]), node["_target_"], arguments(node))
    assert "$" not in yaml.safe_dump(node)
    assert node["steps"] >= node["eval_every"] > 0
    assert registry.description("task", name).endswith(".")


def test_larger_scales_are_longer(planned: Train) -> None:
    for name in registry.names("task"):
        quick, small, full = (
            planned(f"task={name}", f"scale={scale}").steps for scale in ("quick", "small", "full")
        )
        assert quick < small <= full, name


def lr_after(name: str, steps: int) -> float:
    """The factor on the learning rate after some of 8 steps, as the schedule's name promises."""
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * steps / 8, dtype=torch.float64)).item())
    return {
        **{
            "constant": 1.0,
            "cosine": cosine,
            "exponential": 0.9**steps,
            "linear": 1 - 0.99 * steps / 8,
        },
        **{
            f"warmup_{after}": warmed_up(after, steps) for after in ("constant", "cosine", "linear")
        },
    }[name]


def warmed_up(after: str, steps: int) -> float:
    """Two steps up, one third of the rate and two thirds, then six steps of what comes after."""
    cosine = torch.linspace(0, torch.pi, 7, dtype=torch.float64).cos()
    rest = {
        "constant": [1.0] * 7,
        "cosine": ((1 + cosine) / 2).tolist(),
        "linear": torch.linspace(1, 0.01, 7, dtype=torch.float64).tolist(),
    }
    return [1 / 3, 2 / 3, *rest[after]][steps]


@pytest.mark.parametrize("name", registry.names("schedule"))
def test_every_schedule_runs_as_its_name_says(train: Train, name: str) -> None:
    gamma = ["schedule.gamma=0.9"] if name == "exponential" else []
    gamma = ["schedule.warmup=0.25"] if name.startswith("warmup") else gamma
    run = ("optimizer=sgd", "task=quadratic", "optimizer.lr=0.5", "steps=8", "log_every=1")
    done = train(*run, f"schedule={name}", *gamma)

    assert done.status == "done"
    assert done.column("lr") == pytest.approx(
        [0.5 * lr_after(name, step) for step in range(9)], abs=1e-9
    )


def test_a_warm_up_counts_steps_too(train: Train) -> None:
    run = ("optimizer=sgd", "task=quadratic", "optimizer.lr=0.5", "steps=8", "log_every=1")
    done = train(*run, "schedule=warmup_cosine", "schedule.warmup=2")
    assert done.column("lr") == pytest.approx(
        [0.5 * warmed_up("cosine", step) for step in range(9)], abs=1e-9
    )


def test_a_warm_up_continues_where_it_was() -> None:
    def rates(
        steps: int, state: dict[str, Any] | None = None
    ) -> tuple[list[float], dict[str, Any]]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = warmup(optimizer, 10, 4, "cosine")
        if state is not None:
            schedule.load_state_dict(state)
        seen = []
        for _ in range(steps):
            optimizer.step()
            schedule.step()
            seen.append(optimizer.param_groups[0]["lr"])
        return seen, schedule.state_dict()

    whole, _ = rates(10)
    first, state = rates(3)
    assert first + rates(7, state)[0] == whole


@pytest.mark.parametrize(
    ("setting", "value"), [("warmup", -0.1), ("warmup", 11), ("total_iters", 0), ("after", "step")]
)
def test_a_warm_up_out_of_range_is_named(setting: str, value: object) -> None:
    settings: dict[str, Any] = {"total_iters": 10, setting: value}
    with pytest.raises(ValueError, match=setting):
        warmup(torch.optim.SGD([torch.zeros(1)], lr=1.0), **settings)


# -- tuned values ----------------------------------------------------------------------------------


def dotted(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    results: dict[str, Any] = {}
    for key, value in node.items():
        results |= (
            dotted(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return results


def test_every_tuned_file_belongs_to_a_pair_and_sets_what_the_search_space_names() -> None:
    pairs = {
        f"{task}_{optimizer}": optimizer
        for task in registry.names("task")
        for optimizer in registry.names("optimizer")
    }
    for name in registry.names("tuned"):
        assert name in pairs, f"configs/tuned/{name}.yaml is for no task and optimizer there is"
        text = (paths.CONFIGS / "tuned" / f"{name}.yaml").read_text()
        assert text.startswith("# @package _global_\n")
        assert "python -m suite.tune" in text, f"{name} does not say where its values come from"
        settings = yaml.safe_load(text)
        assert set(settings) == {"optimizer"}
        space = registry.read("optimizer", pairs[name])["search"]
        for key, value in dotted(settings["optimizer"]).items():
            assert key in space, f"{name}: {key}"
            if "choices" in space[key]:
                assert value in space[key]["choices"], f"{name}: {key}"
            else:
                assert 0.99 * space[key]["low"] <= value <= 1.01 * space[key]["high"], (
                    f"{name}: {key}"
                )


def test_tuned_files_compose_and_take_effect(planned: Train) -> None:
    for name in registry.names("tuned")[::6]:
        task, optimizer = next(
            (t, o)
            for t in registry.names("task")
            for o in registry.names("optimizer")
            if name == f"{t}_{o}"
        )
        config = planned(f"task={task}", f"optimizer={optimizer}").config
        composed = dotted(config["optimizer"])
        settings = dotted(registry.read("tuned", name)["optimizer"])
        assert {key: composed[key] for key in settings} == settings, name


@pytest.fixture
def tuned_pair(tmp_path: Any) -> str:
    """A folder of the user's own with one tuned file."""
    (tmp_path / "own" / "tuned").mkdir(parents=True)
    (tmp_path / "own/optimizer").mkdir()
    (tmp_path / "own/optimizer/mine.yaml").write_text(
        "_target_: torch.optim.SGD\nlr: 0.5\nmomentum: 0.1\n"
    )
    (tmp_path / "own/tuned/quadratic_mine.yaml").write_text(
        "# @package _global_\noptimizer:\n  lr: 0.125\n"
    )
    return f"hydra.searchpath=[file://{tmp_path / 'own'}]"


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (("task=quadratic",), 0.125),
        (("task=rosenbrock",), 0.5),
        (("task=quadratic", "~tuned"), 0.5),
        (("task=quadratic", "optimizer.lr=0.75"), 0.75),
        (("optimizer.lr=0.75", "task=quadratic"), 0.75),
    ],
)
def test_tuned_values_beat_defaults_and_the_command_line_beats_both(
    planned: Train, tuned_pair: str, overrides: tuple[str, ...], rate: float
) -> None:
    plan = planned("optimizer=mine", tuned_pair, *overrides).config["optimizer"]
    assert (plan["lr"], plan["momentum"]) == (rate, 0.1)


# -- the main job ----------------------------------------------------------------------------------


def swept(experiment: str) -> dict[str, list[str]]:
    """What an experiment sweeps over."""
    with initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        config = compose("config", [f"experiment={experiment}"], return_hydra_config=True)
    assert str(config.hydra.mode).endswith("MULTIRUN")
    return {key: str(value).split(",") for key, value in config.hydra.sweeper.params.items()}


def test_the_quick_experiment_has_nine_tasks_the_main_optimizers_and_three_seeds() -> None:
    grid = swept("quick")
    assert len(set(grid["task"])) == 9
    assert set(grid["optimizer"]) >= ALL_OPTIMIZERS
    assert len(set(grid["seed"])) == len(grid["seed"]) == 3


def test_the_experiments_name_what_exists_and_every_task_is_in_one() -> None:
    grids = [swept(name) for name in registry.names("experiment")]
    assert {task for grid in grids for task in grid["task"]} == set(registry.names("task"))
    assert {name for grid in grids for name in grid["optimizer"]} <= set(
        registry.names("optimizer")
    )
    assert all(len(values) == len(set(values)) for grid in grids for values in grid.values())


def test_the_groups_are_few() -> None:
    folders = [folder for folder in paths.CONFIGS.iterdir() if folder.is_dir()]
    assert len(folders) <= 8
    assert all(path.suffix == ".yaml" for folder in folders for path in folder.iterdir())
    assert {folder.name for folder in folders} <= {*registry.GROUPS, "targets", "report"}
