"""A study on disk: Optuna's journal, one file a study, which several processes and machines may work on at once.

Every trial has a number that says which point of the space it tries. It is claimed under a lock, by
one process, which writes its name into it; a trial whose process is gone is claimed again by
another. What came of it is written once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from suite.errors import ConfigError
from suite.tune import claims
from suite.tune.claims import Owner
from suite.tune.halving import RUNGS, survivors
from suite.tune.journal_file import alone, opened, trial_in
from suite.tune.sampling import parameters, point
from suite.tune.space import Settings, distributions
from suite.tune.study import HALVING, Study
from suite.tune.trial import PRUNED, Trial, killed

ATTEMPTS = 3  # processes that may be lost over one trial before it counts as failed


@dataclass(frozen=True)
class Claim:
    """A trial that this process is to carry out."""

    number: int
    settings: Settings
    trial: int  # its number in the journal
    rung: int = 0  # that it has passed, under successive halving


class Journal:
    """The trials of one study, as all who work on it see them."""

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
                f"a folder that can "
                "be written to: storage=PATH"
            ) from error
        self.storage = self.optuna._storage
        self.id = self.optuna._study_id
        for key, value in study.describe().items():
            if key not in self.optuna.user_attrs:
                self.optuna.set_user_attr(key, value)

    # -- what there is -----------------------------------------------------------------------------

    def trials(self) -> dict[int, FrozenTrial]:
        """All trials by number, as far as the request goes."""
        return {
            number: trial for number, trial in self._all().items() if number < self.study.trials
        }

    def recorded(self) -> list[Trial]:
        """Those that have ended, in order."""
        ended = {
            number: trial for number, trial in self.trials().items() if trial.state.is_finished()
        }
        return [trial_in(ended[number]) for number in sorted(ended)]

    @property
    def complete(self) -> bool:
        """Whether every trial has ended."""
        return len(self.recorded()) == self.study.trials

    @property
    def beyond(self) -> int:
        """How many trials the study has beyond those asked for."""
        return max(0, len(self._all()) - self.study.trials)

    def _all(self) -> dict[int, FrozenTrial]:
        found: dict[int, FrozenTrial] = {}
        for trial in self.storage.get_all_trials(self.id, deepcopy=False):
            if "number" in trial.user_attrs:
                found.setdefault(int(trial.user_attrs["number"]), trial)
        return found

    # -- what this process does --------------------------------------------------------------------

    def decide(self) -> list[Trial]:
        """Under successive halving, end the trials that do not go on beyond a rung which all have come to by now."""
        if self.study.request.pruner != HALVING:
            return []
        with alone(self.path.with_suffix(".claims")):
            return [trial for rung in range(1, RUNGS + 1) for trial in self._decide(rung)]

    def _decide(self, rung: int) -> list[Trial]:
        trials = self.trials()
        there = [trial.state.is_finished() or _passed(trial) >= rung for trial in trials.values()]
        if len(trials) < self.study.trials or not all(there):
            return []
        go_on, ended = (
            survivors({number: _score(trial, rung) for number, trial in trials.items()}, rung),
            [],
        )
        for number, trial in trials.items():
            if trial.state.is_finished() or not _waits(trial) or _passed(trial) != rung:
                continue
            if number in go_on:
                self.storage.set_trial_user_attr(trial._trial_id, "allowed", rung)
            else:
                self._end(trial._trial_id, trial.user_attrs["partial"])
                ended.append(
                    Trial.from_dict(
                        number, dict(trial.user_attrs["settings"]), trial.user_attrs["partial"]
                    )
                )
        return ended

    def claim(self, most: int = 1) -> list[Claim]:
        """Up to so many trials that nobody else carries out.

        Left behind by a process that is gone, or new ones.
        """
        claimed: list[Claim] = []
        with alone(self.path.with_suffix(".claims")):
            trials = self.trials()
            busy = [
                t.params
                for t in trials.values()
                if t.params and not (t.state.is_finished() or self._left(t))
            ]
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
        told = parameters(settings, space, self.study.defaults)
        if told in busy:  # the same setting again is the same run, and another process is at it
            return []
        kept = {
            "number": number,
            "settings": settings,
            "owner": self.owner.to_dict(),
            "attempts": 1,
        }
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=told,
            user_attrs=kept,
            distributions=distributions({name: space[name] for name in told}),
        )
        trial = self.storage.create_new_trial(self.id, template)
        if self._all()[number]._trial_id != trial:  # the lock was lost, and another was quicker
            self.storage.set_trial_state_values(trial, TrialState.FAIL)
            return []
        return [Claim(number, settings, trial)]

    def _take_over(self, number: int, trial: FrozenTrial) -> list[Claim]:
        if not self._left(trial) or _waits(trial):
            return []
        kept = trial.user_attrs
        lost = bool(kept.get("owner"))
        if lost:
            (self.workers / str(kept["owner"]["name"])).unlink(missing_ok=True)
        attempts = int(kept.get("attempts", 1)) + lost
        self.storage.set_trial_user_attr(trial._trial_id, "attempts", attempts)
        if attempts > ATTEMPTS:
            self._end(trial._trial_id, killed(attempts - 1).to_dict())
            return []
        self.storage.set_trial_user_attr(trial._trial_id, "owner", self.owner.to_dict())
        return [Claim(number, dict(kept["settings"]), trial._trial_id, _passed(trial))]

    def _left(self, trial: FrozenTrial) -> bool:
        """Whether nobody carries out a trial that has begun."""
        return claims.gone(trial.user_attrs.get("owner"), self.workers, self.owner)

    def pause(self, claim: Claim, trial: Trial) -> None:
        """A trial has come to a rung.

        Whether it goes on is decided when all others have come there, too.
        """
        if self._mine(claim):
            self.storage.set_trial_user_attr(claim.trial, "partial", trial.to_dict())
            self.storage.set_trial_user_attr(claim.trial, "passed", claim.rung + 1)
            self.storage.set_trial_user_attr(claim.trial, "owner", None)

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Trials that were interrupted: anybody may go on with them, at once."""
        for claim in claims:
            if self._mine(claim):
                self.storage.set_trial_user_attr(claim.trial, "owner", None)

    def tell(self, claim: Claim, trial: Trial) -> None:
        """Write what came of a trial, unless another has been believed to be its owner meanwhile."""
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
    """The rungs that a trial has come to."""
    return int(trial.user_attrs.get("passed", 0))


def _waits(trial: FrozenTrial) -> bool:
    """Whether a trial stands at a rung until it is decided whether it goes on."""
    return _passed(trial) > int(trial.user_attrs.get("allowed", 0))


def _score(trial: FrozenTrial, rung: int) -> float:
    """A trial's score at a rung; -inf for one that did not come there."""
    kept = trial.user_attrs.get("outcome") or trial.user_attrs.get("partial") or {}
    scores = kept.get("scores", [])
    return float(scores[rung - 1]) if len(scores) >= rung else -math.inf
