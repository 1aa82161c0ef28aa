"""Studies on disk: no trial is carried out twice or lost, whoever works on them and whatever
happens to them."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from suite.errors import ConfigError
from suite.tune import claims, journal_file
from suite.tune.claims import Owner
from suite.tune.journal import ATTEMPTS, Journal
from suite.tune.sampling import sequence
from suite.tune.study import Request, Study
from suite.tune.trial import Trial

SPACE = {"lr": {"low": 1e-3, "high": 10.0, "log": True}}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    request = Request(["sgd"], ["quadratic"], trials=6, jobs=1, storage=tmp_path / "studies")
    config = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}
    plan: Any = SimpleNamespace(optimizer="sgd", task="quadratic", run_id="01234567", config=config)
    return Study("sgd", "quadratic", plan, SPACE, request)


def of(study: Study, **changes: Any) -> Study:
    return replace(study, request=replace(study.request, **changes))


def ended(claim: Any, value: float | None = 0.5, **others: Any) -> Trial:
    return Trial(
        claim.number, claim.settings, "done" if value is not None else "diverged", value, **others
    )


def owner(name: str, process: int | None = None) -> Owner:
    """A process of this machine; one that is there unless it gets another number."""
    return (
        replace(claims.myself(), name=name)
        if process is None
        else replace(claims.myself(), name=name, process=process)
    )


def dead() -> Owner:
    return owner(f"dead-{time.monotonic_ns()}", 2**22 + 1)


# -- claims ----------------------------------------------------------------------------------------


def test_trials_are_claimed_in_order_with_the_points_of_the_space(study: Study) -> None:
    journal = Journal(study, owner("a"))
    claims = [claim for _ in range(6) for claim in journal.claim()]

    assert [claim.number for claim in claims] == list(range(6))
    assert [claim.settings for claim in claims] == sequence(SPACE, 6)
    assert journal.claim() == []
    assert not journal.complete
    for claim in claims:
        journal.record(claim, ended(claim, claim.number / 10))
    assert journal.complete
    assert [trial.value for trial in journal.recorded()] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_two_processes_share_a_study(study: Study) -> None:
    here, other = Journal(study, owner("a")), Journal(study, owner("b"))
    numbers = [
        claim.number for _ in range(3) for journal in (here, other) for claim in journal.claim()
    ]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert here.claim() == other.claim() == []


def test_several_are_claimed_at_once(study: Study) -> None:
    here, other = Journal(study, owner("a")), Journal(study, owner("b"))
    assert [claim.number for claim in here.claim(4)] == [0, 1, 2, 3]
    assert [claim.number for claim in other.claim(4)] == [4, 5]


def test_optuna_sees_an_ordinary_study(study: Study) -> None:
    journal = Journal(study, owner("a"))
    for value, claim in zip([0.5, None, 0.25], journal.claim(3), strict=True):
        journal.record(claim, ended(claim, value, sign=-1.0))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(study.journal))
    )
    seen = optuna.load_study(study_name=study.name, storage=storage)

    assert [trial.params.get("lr") for trial in seen.trials] == [
        0.1,
        *(s["lr"] for s in sequence(SPACE, 3)[1:]),
    ]
    assert [trial.value for trial in seen.trials] == [-0.5, -math.inf, -0.25]
    assert {trial.state for trial in seen.trials} == {TrialState.COMPLETE}
    assert seen.best_trial.number == 2
    assert seen.user_attrs["space"] == SPACE


def test_a_larger_request_goes_on_and_a_smaller_one_looks_at_the_first(study: Study) -> None:
    journal = Journal(study, owner("a"))
    for claim in journal.claim(6):
        journal.record(claim, ended(claim))
    more = Journal(of(study, trials=8), owner("a"))
    assert [claim.number for claim in more.claim(8)] == [6, 7]

    fewer = Journal(of(study, trials=4), owner("a"))
    assert fewer.complete
    assert [trial.number for trial in fewer.recorded()] == [0, 1, 2, 3]
    assert fewer.beyond == 4


def test_other_spaces_runs_samplers_and_seeds_are_other_studies(study: Study) -> None:
    wider = replace(study, space={"lr": {**SPACE["lr"], "high": 30.0}})
    config = {**vars(study.plan), "run_id": "76543210"}
    longer = replace(study, plan=SimpleNamespace(**config))
    others = [
        wider,
        longer,
        of(study, sampler="tpe"),
        of(study, seeds=2),
        of(study, pruner="halving"),
    ]
    names = {study.name, *(other.name for other in others)}
    assert len(names) == 6
    assert all(name.startswith("quadratic_sgd_") for name in names)
    assert of(study, trials=9, jobs=2).name == study.name


def test_a_halved_study_is_one_of_its_number_of_trials(study: Study) -> None:
    assert of(study, pruner="halving", trials=9).name != of(study, pruner="halving").name


def test_the_same_setting_again_waits_for_the_run_that_is_at_it(study: Study) -> None:
    """A small space repeats itself, and the same setting is the same run.

    Two processes must not write one record.
    """
    pair = replace(study, space={"lr": {"choices": [0.01, 0.1]}})
    assert [point.get("lr", 0.1) for point in sequence(pair.space, 6)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.1,
        0.1,
    ]
    here, other = Journal(pair, owner("a")), Journal(pair, owner("b"))
    ((first,), (second,)) = here.claim(), here.claim()
    assert (first.number, second.number) == (0, 2)
    assert other.claim() == []
    here.record(first, ended(first))
    assert [claim.number for claim in other.claim()] == [1]
    assert other.claim() == []
    here.record(second, ended(second))
    assert [claim.number for claim in here.claim()] == [3]


# -- processes that are gone -----------------------------------------------------------------------


def test_the_trial_of_a_dead_process_is_taken_over(study: Study) -> None:
    (left,) = Journal(study, dead()).claim()
    journal = Journal(study, owner("b"))
    (taken,) = journal.claim()

    assert (taken.number, taken.settings) == (left.number, left.settings)
    assert [claim.number for claim in journal.claim(6)] == [1, 2, 3, 4, 5]


def test_what_a_process_tells_that_was_believed_dead_is_not_heard(study: Study) -> None:
    slow = Journal(study, dead())
    (left,) = slow.claim()
    journal = Journal(study, owner("b"))
    (taken,) = journal.claim()
    slow.record(left, ended(left, 0.1))
    assert journal.recorded() == []
    journal.record(taken, ended(taken, 0.2))
    slow.record(left, ended(left, 0.1))
    assert [trial.value for trial in journal.recorded()] == [0.2]


def test_a_trial_that_is_given_back_is_claimed_at_once_and_counts_no_loss(study: Study) -> None:
    here, other = Journal(study, owner("a")), Journal(study, owner("b"))
    for _ in range(2 * ATTEMPTS):
        (claim,) = here.claim()
        assert claim.number == 0
        here.give_back([claim])
        (claim,) = other.claim()
        assert claim.number == 0
        other.give_back([claim])
    assert here.recorded() == []


def test_a_trial_that_kills_every_process_fails(study: Study) -> None:
    for _ in range(ATTEMPTS):
        (claim,) = Journal(study, dead()).claim()
        assert claim.number == 0
    journal = Journal(study, owner("b"))
    assert [claim.number for claim in journal.claim()] == [1]
    (failed,) = journal.recorded()
    assert (failed.number, failed.status, failed.score) == (0, "error", -math.inf)
    assert failed.message == f"{ATTEMPTS} processes were killed over this trial"


def test_a_trial_that_was_told_but_not_ended_is_told_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(study, dead())
    (claim,) = journal.claim()
    with monkeypatch.context() as patched:
        # killed just before
        patched.setattr(journal.storage, "set_trial_state_values", lambda *given: None)
        journal.record(claim, ended(claim, 0.5))
    other = Journal(study, owner("b"))
    assert other.recorded() == []
    (again,) = other.claim()
    other.record(again, ended(again, 0.5))
    assert [trial.value for trial in other.recorded()] == [0.5]


def test_a_lock_that_was_lost_makes_no_trial_twice(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that believe to be alone both make trial 0.

    The journal's order decides whose it is.
    """
    here, other = Journal(study, owner("a")), Journal(study, owner("b"))
    (first,) = here.claim()
    monkeypatch.setattr(other, "trials", dict)  # it has looked before the other wrote
    claimed = other.claim()
    assert 0 not in [claim.number for claim in claimed]
    assert here._all()[0].number == 0
    here.record(first, ended(first))
    assert [trial.number for trial in here.recorded()] == [0]


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_that_was_cut_off_does_not_spoil_the_journal(study: Study, cut: int) -> None:
    journal = Journal(study, dead())
    (claim,) = journal.claim()
    journal.record(claim, ended(claim, 0.5))
    journal.claim()
    content = study.journal.read_bytes()
    study.journal.write_bytes(content[:-cut])

    after = Journal(study, owner("b"))
    assert [trial.value for trial in after.recorded()] == [0.5]
    numbers = [claim.number for claim in after.claim(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in study.journal.read_text().splitlines())
    assert len(journal_file.read(study.journal)[1]) == 1


def test_a_file_that_is_no_journal_is_named(study: Study) -> None:
    study.journal.parent.mkdir(parents=True)
    study.journal.write_text("this is\nnot a journal\n")
    with pytest.raises(
        ConfigError, match=r"the study's journal .* is damaged .* Move it away and type the same"
    ):
        Journal(study, owner("a"))


def test_a_folder_that_cannot_be_made_is_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError,
        match=r"the study cannot be kept in .*file/studies \(Not a directory\); .*storage=PATH",
    ):
        Journal(of(study, storage=tmp_path / "file" / "studies"), owner("a"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_named(study: Study, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        Journal(of(study, storage=locked), owner("a"))


# -- real processes --------------------------------------------------------------------------------


def claim_all(study: Study, pause: float, meeting: Any = None) -> None:
    me = claims.myself()
    if meeting is not None:
        meeting.wait()
    journal = Journal(study, me)
    with claims.present(me, journal.workers):
        while claimed := journal.claim():
            if meeting is not None:  # no process is so quick that another gets no trial
                meeting.wait()
                meeting = None
            time.sleep(pause)
            journal.record(claimed[0], ended(claimed[0], message=str(os.getpid())))


@pytest.fixture
def started() -> Iterator[Callable[..., Any]]:
    children = []

    def start(*given: Any) -> Any:
        child = FORK.Process(target=given[0], args=given[1:])
        children.append(child)
        child.start()
        return child

    yield start
    for child in children:
        child.kill()
        child.join()


def test_processes_that_work_at_the_same_time_share_the_trials(
    study: Study, started: Callable[..., Any]
) -> None:
    study = of(study, trials=40)
    meeting = FORK.Barrier(4)
    children = [started(claim_all, study, 0.002, meeting) for _ in range(4)]
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    trials = Journal(study, owner("a")).recorded()
    every = optuna.load_study(
        study_name=study.name, storage=Journal(study, owner("a")).storage
    ).trials

    assert [trial.number for trial in trials] == list(range(40))
    assert [trial.settings for trial in trials] == sequence(SPACE, 40)
    assert len(every) == 40  # none was made twice
    assert {trial.state for trial in every} == {TrialState.COMPLETE}
    assert all(trial.user_attrs["attempts"] == 1 for trial in every)
    assert len(Counter(trial.message for trial in trials)) == 4


def test_a_process_that_is_killed_leaves_its_trial_to_another(
    study: Study, started: Callable[..., Any]
) -> None:
    child = started(claim_all, study, 60.0)
    journal = Journal(study, owner("b"))
    deadline = time.monotonic() + 300
    while not journal.trials() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [claim.number for claim in journal.claim()] == [1]  # 0 is at work
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert [claim.number for claim in journal.claim()] == [0]
    assert [claim.number for claim in journal.claim()] == [2]
