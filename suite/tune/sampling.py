"""The setting of a trial: a point of the space, by the trial's number and, for TPE, the past.

Trial 0 is the default setting whatever the sampler. The points of `quasi` (scrambled Sobol) and
`random` depend on the space and the trial's number only: trials of a study are exchangeable, in any
order, on any machine, and a larger budget adds to a smaller one. `tpe` (Bergstra et al. 2011) uses
the trials so far; those still running count as bad ones (constant liar), so that parallel trials
try different points.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from suite.config.search_space import Settings, Space, distributions, inside, rounded
from suite.files import digest
from suite.training.seeds import stream

SAMPLERS = ("quasi", "random", "tpe")
QUASI, RANDOM, TPE = SAMPLERS
EXCHANGEABLE = frozenset({QUASI, RANDOM})
SEED = 0  # of the sequence of points; the seeds of the runs are others
STARTUP = 10  # quasi-random trials that TPE begins with: the default and nine points


def point(sampler: str, space: Space, number: int, past: Sequence[Any] = ()) -> Settings:
    """The settings of a trial: none for trial 0, else a point of the space, to three digits.

    Args:
        sampler: its name, one of `SAMPLERS`.
        space: the search space.
        number: of the trial.
        past: for `tpe`, Optuna's trials of the study so far, the running ones among them.
    """
    if number == 0 or not space:
        return {}
    if sampler == RANDOM:
        return _random(space, number)
    if sampler == TPE and number >= STARTUP:
        return _suggested(space, number, past)
    return sequence(space, number + 1)[number]


def sequence(space: Space, trials: int) -> list[Settings]:
    """The default (no settings) and `trials - 1` scrambled quasi-random points, to three digits."""
    if not space:
        return [{}]
    size = 1 << max(4, (trials - 1).bit_length())  # so that the same work serves many numbers
    return [dict(settings) for settings in _sequence(json.dumps(space), size)[:trials]]


def parameters(settings: Settings, space: Space, defaults: Settings) -> dict[str, Any]:
    """The point of a trial for Optuna; none for defaults that lie outside the space."""
    own = {name: settings.get(name, defaults.get(name)) for name in space}
    return own if inside(own, space) else {}


@cache
def _sequence(text: str, trials: int) -> list[Settings]:
    import optuna

    space = json.loads(text)
    with _quietly():
        sampler = optuna.samplers.QMCSampler(
            seed=SEED,
            scramble=True,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )
        study, asked = optuna.create_study(sampler=sampler), distributions(space)
        points = [study.ask(asked).params for _ in range(trials)]
    return [{}, *(_rounded(point, space) for point in points[1:])]


def _random(space: Space, number: int) -> Settings:
    import optuna

    with _quietly():
        seed = stream(SEED, f"random/{number}") % 2**32
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        return _rounded(study.ask(distributions(space)).params, space)


def _suggested(space: Space, number: int, past: Sequence[Any]) -> Settings:
    """TPE's suggestion; its random numbers depend on the trial's number, so a study can resume."""
    import optuna

    with _quietly():
        seed = stream(SEED, f"tpe/{number}/{digest(space)}") % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.add_trials([trial for trial in past if trial.params])
        return _rounded(study.ask(distributions(space)).params, space)


def _rounded(point: Mapping[str, Any], space: Space) -> Settings:
    return {name: rounded(point[name], space[name]) for name in space}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's notes on every step and on its experimental parts."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
