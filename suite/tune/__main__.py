"""Equal-budget tuning.

`python -m suite.tune optimizer=kfac,adamw task=mlp,cnn trials=12 [key=value ...]`.

Every optimizer gets the same number of trials on a task: its default settings first, then
quasi-random points of the `search` space in its YAML. A trial is an ordinary recorded run under
results/tune/, and a study is a journal beside them, so one that is stopped goes on where it was,
and several processes or machines may work on one. The setting with the best final validation metric
becomes configs/tuned/<task>_<optimizer>.yaml; a trial that failed counts as worst, and the test
split is not looked at.

Of the study itself: trials=12 jobs=2 sampler=quasi|random|tpe pruner=none|halving seeds=1
batched=1|auto|32 storage=FOLDER (of the studies, to be shared) out=FOLDER (of what is found).
Everything else is a setting of the runs, as `python -m suite` takes it: scale=quick steps=300
schedule=cosine. See docs/guide/tuning.md.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from suite import paths
from suite.config import messages, registry
from suite.errors import ConfigError, require_one_of

if TYPE_CHECKING:
    from suite.tune.study import Request

AUTO = 32  # trials of a batch, where the number is left open
REFUSED = {
    "seed": "trials have seeds of their own, which no comparison uses; how many is seeds=2",
    "force": "what is recorded is not tried again; to begin anew, move away the study's journal "
    "and its runs",
    "tuned": "tuning begins with the default settings",
}


def tune(request: Request) -> None:
    """Carry out all trials of all pairs, and write what was found."""
    from suite.tune import claims
    from suite.tune.journal import Journal
    from suite.tune.pool import carry_out_all
    from suite.tune.study import studies
    from suite.tune.winner import before, compared, conclude

    of = studies(request)
    journals = [Journal(study, claims.myself()) for study in of]
    pairs = f"{len(request.tasks)} tasks x {len(request.optimizers)} optimizers x {request.trials}"
    print(f"{sum(study.trials for study in of)} trials: {pairs}")
    for line in before(request, journals):
        print(line, flush=True)
    carry_out_all(request, of)
    for journal in journals:
        conclude(journal.study, journal.recorded())
    for line in compared(of, [journal.beyond for journal in journals]):
        print(line)


def parse(arguments: Sequence[str]) -> Request:
    """The studies that a command line asks for."""
    from suite.config.device import cores
    from suite.tune.sampling import EXCHANGEABLE, SAMPLERS
    from suite.tune.study import HALVING, PRUNERS, Request

    given = _settings(arguments)
    if not {"optimizer", "task"} <= given.keys():
        raise ConfigError(__doc__ or "")
    optimizers, tasks = given.pop("optimizer").split(","), given.pop("task").split(",")
    for group, chosen in (("optimizer", optimizers), ("task", tasks)):
        for name in chosen:
            require_one_of(group, name, registry.names(group))
    trials, jobs = (
        _count("trials", given.pop("trials", "12")),
        _count("jobs", given.pop("jobs", str(cores()))),
    )
    sampler, pruner = given.pop("sampler", SAMPLERS[0]), given.pop("pruner", PRUNERS[0])
    require_one_of("sampler", sampler, SAMPLERS)
    require_one_of("pruner", pruner, PRUNERS)
    seeds, batched = _count("seeds", given.pop("seeds", "1")), given.pop("batched", "1")
    together = AUTO if batched == "auto" else _count("batched", batched)
    out = Path(given.pop("out", str(paths.CONFIGS / "tuned")))
    storage = Path(given.pop("storage")).expanduser() if "storage" in given else None
    overrides = [f"{key}={value}" for key, value in given.items()]
    if pruner == HALVING and (seeds > 1 or together > 1 or sampler not in EXCHANGEABLE):
        raise ConfigError(
            "pruner=halving runs all trials side by side, a run each: leave out seeds, batched and "
            "sampler=tpe, or the "
            "pruner"
        )
    return Request(
        optimizers, tasks, trials, jobs, overrides, out, sampler, pruner, seeds, storage, together
    )


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    """The words as keys and values.

    Raises:
        ConfigError: one that is none, or that a study decides by itself.
    """
    for word in arguments:
        key = word.partition("=")[0].lstrip("+")
        if "=" not in word or not key:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key in REFUSED:
            raise ConfigError(f"{word}: {REFUSED[key]}")
    pairs = [word.partition("=")[::2] for word in arguments]
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ConfigError(f"{key} is given twice; several go with commas: {key}=a,b")
    return dict(pairs)


def _count(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name} must be a whole number from 1 on, got {text!r}")
    return int(text)


def main() -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with messages.answered(sys.argv[1:]):
        tune(parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
