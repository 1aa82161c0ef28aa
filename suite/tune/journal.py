"""A study on disk: Optuna's journal, one file a study, shared by processes and machines.

The number of a trial decides which point of the space it tries. One process claims the trial under
a lock and writes its name into it; a trial whose process has ended is claimed again by another. The
outcome is written once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from suite.config.search_space import Settings, distributions
from suite.errors import ConfigError
from suite.tune import claims
from suite.tune.claims import Owner
from suite.tune.halving import RUNGS, survivors
from suite.tune.journal_file import alone, opened, trial_in
from suite.tune.sampling import parameters, point
from suite.tune.study import HALVING, Study
from suite.tune.trial import PRUNED, Trial, killed

ATTEMPTS = 3  # processes that may be lost over one trial before it counts as failed


@dataclass(frozen=True)
class Claim:
    """A trial that this process is to run."""

    number: int
    settings: Settings
    trial: int  # its number in the journal
    rung: int = 0  # passed so far, under successive halving


class Journal:
    """The trials of one study, the same for all processes that work on it."""

    def __init__(self, study: Study, owner: Owner) -> None:
        self.study, self.owner = study, owner
        self.path = study.journal.absolute()
        self.workers = self.path.parent / "workers"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.optuna = opened(self.path, study.name)
        except OSError as error:
            raise ConfigError(
                f"the study cannot be kept in {self.path.parent} ({error.strerror or error}); give "
                "a folder that can be written to: storage=PATH"
            ) from error
        self.storage = self.optuna._storage
        self.id = self.optuna._study_id
        for key, value in study.describe().items():
            if key not in self.optuna.user_attrs:
                self.optuna.set_user_attr(key, value)

    # -- the trials --------------------------------------------------------------------------------

    def trials(self) -> dict[int, FrozenTrial]:
        """All trials by number, as far as the request goes."""
        return {
            number: trial for number, trial in self._all().items() if number < self.study.trials
        }

    def recorded(self) -> list[Trial]:
        """The trials that have ended, in order."""
        trials = self.trials()
        ended = [number for number in sorted(trials) if trials[number].state.is_finished()]
        return [trial_in(trials[number]) for number in ended]

    @property
    def complete(self) -> bool:
        """Whether every trial has ended."""
        return len(self.recorded()) == self.study.trials

    @property
    def beyond(self) -> int:
        """How many trials the study has beyond the request."""
        return max(0, len(self._all()) - self.study.trials)

    def _all(self) -> dict[int, FrozenTrial]:
        trials: dict[int, FrozenTrial] = {}
        for trial in self.storage.get_all_trials(self.id, deepcopy=False):
            if "number" in trial.user_attrs:
                trials.setdefault(int(trial.user_attrs["number"]), trial)
        return trials

    # -- the work of this process ------------------------------------------------------------------

    def decide(self) -> list[Trial]:
        """Under successive halving, end the trials that a rung eliminates, once all reached it."""
        if self.study.request.pruner != HALVING:
            return []
        with alone(self.path.with_suffix(".claims")):
            return [trial for rung in range(1, RUNGS + 1) for trial in self._decide(rung)]

    def _decide(self, rung: int) -> list[Trial]:
        trials = self.trials()
        ready = [trial.state.is_finished() or _passed(trial) >= rung for trial in trials.values()]
        if len(trials) < self.study.trials or not all(ready):
            return []
        scores = {number: _score(trial, rung) for number, trial in trials.items()}
        promoted, ended = survivors(scores, rung), []
        for number, trial in trials.items():
            if not _waits_at(trial, rung):
                continue
            if number in promoted:
                self.storage.set_trial_user_attr(trial._trial_id, "allowed", rung)
                continue
            settings, outcome = dict(trial.user_attrs["settings"]), trial.user_attrs["partial"]
            self._end(trial._trial_id, outcome)
            ended.append(Trial.from_dict(number, settings, outcome))
        return ended

    def claim(self, most: int = 1) -> list[Claim]:
        """Up to so many trials that no process runs: abandoned ones and new ones."""
        claimed: list[Claim] = []
        with alone(self.path.with_suffix(".claims")):
            trials = self.trials()
            busy = [trial.params for trial in trials.values() if self._is_busy(trial)]
            for number in range(self.study.trials):
                if len(claimed) == most:
                    break
                if number not in trials:
                    claimed += self._begin(number, busy)
                elif not trials[number].state.is_finished():
                    claimed += self._take_over(number, trials[number])
        return claimed

    def _begin(self, number: int, busy: Sequence[Settings]) -> list[Claim]:
        space = self.study.space
        past = self.storage.get_all_trials(self.id, deepcopy=False)
        settings = point(self.study.request.sampler, space, number, past)
        params = parameters(settings, space, self.study.defaults)
        if params in busy:  # the same setting is the same run, and another process runs it
            return []
        attributes = {
            "number": number,
            "settings": settings,
            "owner": self.owner.to_dict(),
            "attempts": 1,
        }
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            user_attrs=attributes,
            distributions=distributions({name: space[name] for name in params}),
        )
        trial = self.storage.create_new_trial(self.id, template)
        if self._all()[number]._trial_id != trial:  # the lock was lost, and another was quicker
            self.storage.set_trial_state_values(trial, TrialState.FAIL)
            return []
        return [Claim(number, settings, trial)]

    def _take_over(self, number: int, trial: FrozenTrial) -> list[Claim]:
        if not self._is_abandoned(trial) or _waits(trial):
            return []
        attributes = trial.user_attrs
        lost = bool(attributes.get("owner"))
        if lost:
            (self.workers / str(attributes["owner"]["name"])).unlink(missing_ok=True)
        attempts = int(attributes.get("attempts", 1)) + lost
        self.storage.set_trial_user_attr(trial._trial_id, "attempts", attempts)
        if attempts > ATTEMPTS:
            self._end(trial._trial_id, killed(attempts - 1).to_dict())
            return []
        self.storage.set_trial_user_attr(trial._trial_id, "owner", self.owner.to_dict())
        return [Claim(number, dict(attributes["settings"]), trial._trial_id, _passed(trial))]

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether no process runs a trial that has begun."""
        return claims.gone(trial.user_attrs.get("owner"), self.workers, self.owner)

    def _is_busy(self, trial: FrozenTrial) -> bool:
        """Whether a process runs a trial whose point Optuna knows."""
        over = trial.state.is_finished() or self._is_abandoned(trial)
        return bool(trial.params) and not over

    def pause(self, claim: Claim, trial: Trial) -> None:
        """Leave a trial at a rung, until all others have reached it and `decide` promotes some."""
        if self._mine(claim):
            self.storage.set_trial_user_attr(claim.trial, "partial", trial.to_dict())
            self.storage.set_trial_user_attr(claim.trial, "passed", claim.rung + 1)
            self.storage.set_trial_user_attr(claim.trial, "owner", None)

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Leave interrupted trials to any process, at once."""
        for claim in claims:
            if self._mine(claim):
                self.storage.set_trial_user_attr(claim.trial, "owner", None)

    def record(self, claim: Claim, trial: Trial) -> None:
        """Write the outcome of a trial, unless another process has taken it over meanwhile."""
        with alone(self.path.with_suffix(".claims")):
            if self._mine(claim):
                self._end(claim.trial, trial.to_dict())

    def _end(self, trial: int, outcome: Mapping[str, Any]) -> None:
        self.storage.set_trial_user_attr(trial, "outcome", dict(outcome))
        state = TrialState.PRUNED if outcome["status"] == PRUNED else TrialState.COMPLETE
        self.storage.set_trial_state_values(trial, state, [float(outcome["score"])])

    def _mine(self, claim: Claim) -> bool:
        trial = self.storage.get_trial(claim.trial)
        owner = trial.user_attrs.get("owner") or {}
        return not trial.state.is_finished() and owner.get("name") == self.owner.name


def _passed(trial: FrozenTrial) -> int:
    """The number of rungs that a trial has reached."""
    return int(trial.user_attrs.get("passed", 0))


def _waits(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung for the decision."""
    return _passed(trial) > int(trial.user_attrs.get("allowed", 0))


def _waits_at(trial: FrozenTrial, rung: int) -> bool:
    return not trial.state.is_finished() and _waits(trial) and _passed(trial) == rung


def _score(trial: FrozenTrial, rung: int) -> float:
    """A trial's score at a rung; -inf for one that did not reach it."""
    outcome = trial.user_attrs.get("outcome") or trial.user_attrs.get("partial") or {}
    scores = outcome.get("scores", [])
    return float(scores[rung - 1]) if len(scores) >= rung else -math.inf
