"""Tables of the circumstances.

What went wrong, how to repeat it, the settings behind the labels, the machines.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd

from suite.results.frame import Records
from suite.results.labels import flatten, show
from suite.results.load import FINISHED
from suite.tables.table import Cell, Table, make_table, runs_note

LONGEST_MESSAGE = 300
OF_THE_PAIR = ("oracle_costs", "layer_coverage")  # what the file tells beside the machine
ASK_BY_FORCE = (
    "diverged",
    "timeout",
    "unsupported",
)  # the suite skips these: they would end the same way


def status_counts(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs ended in each status, the most frequent first."""
    counts = Counter(map(str, runs["status"]))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def outcome_tables(records: Records) -> list[Table]:
    """Every run that neither finished nor reached its target, grouped, with the reason.

    No table if there is none.
    """
    failed = records.frame[~records.frame["status"].isin(FINISHED)]
    rows = [
        _outcome_row(records, group)
        for _, group in failed.groupby(
            ["problem", "family_rank", "optimizer", "status"], sort=False
        )
    ]
    caption = (
        "Every run that neither finished nor reached its target, the reason that was recorded, and "
        "the command that "
        "repeats the first of them. "
    )
    table = make_table(
        "outcomes", "Outcomes and their reasons", caption + runs_note(len(failed)), rows
    )
    return [table] if rows else []


def problem_table(records: Records) -> Table:
    """The settings that each problem's label stands for."""
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": problem,
            "runs": Cell(str(len(records.of(problem))), order=len(records.of(problem))),
            "seeds": _seeds(records.of(problem)),
            "settings": _settings(settings),
            "cost of calls": _call_costs(records, problem),
        }
        for problem, settings in sorted(records.problem_settings.items())
    ]
    caption = (
        "What was trained: data, model, budget and device of each problem, and the measured cost "
        "of each oracle call "
        "relative to one forward and backward, by which grad-equivalents are weighted. "
    )
    return make_table("problems", "Problems", caption + runs_note(len(records.frame)), rows)


def configuration_table(records: Records) -> Table:
    """The hyperparameters behind each optimizer's label, problem by problem."""
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": problem,
            "optimizer": name,
            "family": str(runs["family"].iloc[0]).replace("_", " "),
            "runs": Cell(str(len(runs)), order=len(runs)),
            "settings": _settings(records.optimizer_settings[problem, name]),
        }
        for problem, name, runs in records.pairs()
    ]
    caption = "The resolved hyperparameters of every optimizer on every problem. "
    return make_table(
        "configurations", "Configurations", caption + runs_note(len(records.frame)), rows
    )


def environment_table(records: Records) -> Table:
    """Versions and machines; where the runs disagree, every value with its number of runs."""
    values: dict[str, Counter[str]] = {}
    for environment in records.environments.values():
        machine = {key: value for key, value in environment.items() if key not in OF_THE_PAIR}
        for key, value in flatten(machine).items():
            values.setdefault(key, Counter())[value] += 1
    rows: list[dict[str, Cell | str]] = [
        {"what": key, "value": _spread(counts, len(records.environments))}
        for key, counts in values.items()
    ]
    caption = "Recorded at the start of the runs; a value that not all runs share says how many runs it belongs to. "
    return make_table(
        "environment", "Environment", caption + runs_note(len(records.environments)), rows
    )


def _outcome_row(records: Records, group: pd.DataFrame) -> dict[str, Cell | str]:
    first = group.iloc[0]
    total = len(records.pair(first["problem"], first["optimizer"]))
    messages = "; ".join(dict.fromkeys(message for message in group["message"] if message))
    return {
        "problem": str(first["problem"]),
        "optimizer": str(first["optimizer"]),
        "status": str(first["status"]),
        "runs": Cell(f"{len(group)}/{total}", order=len(group) / total),
        "seeds": _seeds(group),
        "reason": messages
        if len(messages) <= LONGEST_MESSAGE
        else f"{messages[:LONGEST_MESSAGE]}…",
        "command": repeating(str(first["command"]), str(first["status"])),
        "directory": str(first["path"]),
    }


def repeating(command: str, status: str) -> str:
    """The command that runs something again; what the suite would skip has to be asked for."""
    return f"{command} force=true" if command and status in ASK_BY_FORCE else command


def _call_costs(records: Records, problem: str) -> str:
    """The median over the problem's runs of each call's cost."""
    told = [records.environments[index].get("oracle_costs") for index in records.of(problem).index]
    costs = pd.DataFrame([one for one in told if isinstance(one, dict)])
    medians = costs.apply(pd.to_numeric, errors="coerce").median().dropna()
    return ", ".join(f"{call} {cost:.2f}" for call, cost in medians.items())


def _settings(settings: dict[str, str]) -> str:
    return ", ".join(f"{key.removeprefix('task.')}={value}" for key, value in settings.items())


def _seeds(runs: pd.DataFrame) -> str:
    return ", ".join(map(show, sorted(set(runs["seed"]))))


def _spread(counts: Counter[str], total: int) -> str:
    if len(counts) == 1 and sum(counts.values()) == total:
        return next(iter(counts))
    return ", ".join(
        f"{value} ({many} run{'s' if many != 1 else ''})" for value, many in counts.most_common()
    )
