"""Equal-budget tuning.

    python -m suite.tune optimizer=kfac,adamw task=mlp,cnn trials=12 [key=value ...]

Every optimizer gets the same number of trials on a task: its default settings first, then
quasi-random points of the `search` space in its YAML. A trial is an ordinary recorded run under
results/tune/, and a study is a journal beside them: a study that was stopped resumes, and several
processes or machines may work on it. The setting with the best final validation metric becomes
configs/tuned/<task>_<optimizer>.yaml; a trial that failed counts as worst, and the test split is
not used.

Of the study itself: trials=12 jobs=2 sampler=quasi|random|tpe pruner=none|halving seeds=1
storage=FOLDER (of the studies, to be shared) out=FOLDER (of the tuned values).
All other words are settings of the runs, as `python -m suite` takes them: scale=quick steps=300
schedule=cosine. See docs/guide/tuning.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from suite.config import messages, words

if TYPE_CHECKING:
    from suite.tune.study import Request

REFUSED = {
    "seed": "trials have seeds of their own, which no comparison uses; how many is seeds=2",
    "force": "what is recorded is not tried again; to begin anew, move away the study's journal "
    "and its runs",
    "tuned": "tuning begins with the default settings",
    "batched": "a trial is a run by itself; jobs=2 runs two at a time",
}


def tune(request: Request) -> None:
    """Run all trials of all pairs, and write the best settings."""
    from suite.tune import claims
    from suite.tune.journal import Journal
    from suite.tune.pool import run_missing
    from suite.tune.study import studies
    from suite.tune.winner import before, compared, conclude

    all_studies = studies(request)
    journals = [Journal(study, claims.myself()) for study in all_studies]
    pairs = f"{len(request.tasks)} tasks x {len(request.optimizers)} optimizers x {request.trials}"
    print(f"{sum(study.trials for study in all_studies)} trials: {pairs}")
    for line in before(request, journals):
        print(line, flush=True)
    run_missing(request, all_studies)
    for journal in journals:
        conclude(journal.study, journal.recorded())
    for line in compared(all_studies, [journal.beyond for journal in journals]):
        print(line)


def parse(arguments: Sequence[str]) -> Request:
    """The studies that a command line asks for.

    Raises:
        ConfigError: an unknown name, a value of the wrong kind, or keys that exclude each other.
    """
    from suite.tune.sampling import SAMPLERS
    from suite.tune.study import PRUNERS, Request

    own = {
        "optimizer": words.names,
        "task": words.names,
        "trials": words.positive_int,
        "jobs": words.positive_int,
        "sampler": words.one_of(*SAMPLERS),
        "pruner": words.one_of(*PRUNERS),
        "seeds": words.positive_int,
        "storage": words.folder,
        "out": words.folder,
    }
    values, overrides = words.read(arguments, own, REFUSED)
    if not {"optimizer", "task"} <= values.keys():
        raise words.lacking(__doc__, optimizer=values.get("optimizer"), task=values.get("task"))
    optimizers, tasks = values.pop("optimizer"), values.pop("task")
    return Request(optimizers, tasks, **values, overrides=overrides)


def main() -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    words.answer_help(sys.argv[1:], __doc__)
    with messages.answered(sys.argv[1:]):
        tune(parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
