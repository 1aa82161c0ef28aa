"""The file of a study: Optuna's journal, a line an event, appended under a lock."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial

from suite.errors import ConfigError
from suite.tune.trial import Trial

LOCK_SECONDS = 20  # after which a lock that is not released is taken


def alone(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a file: a file beside it that only one process can create.

    It works over network folders too.
    """
    return get_lock_file(JournalFileOpenLock(str(path), LOCK_SECONDS))


class WholeLines(JournalFileBackend):
    """Optuna's journal file; a line that a kill or a full disk left half written is cut off.

    The next line would else be appended to the half one, and the whole file be unreadable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=JournalFileOpenLock(str(path), LOCK_SECONDS))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append events, after the last whole line."""
        if self._torn():
            with alone(self._path):
                if self._torn():
                    content = self._path.read_bytes()
                    os.truncate(self._path, content.rfind(b"\n") + 1)
        super().append_logs(logs)

    def _torn(self) -> bool:
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def opened(path: Path, name: str) -> optuna.Study:
    """The study in a file; a new one where the file does not exist.

    Raises:
        ConfigError: the content of the file is no journal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = JournalStorage(WholeLines(path))
        return optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"the study's journal {path} is damaged ({error}). Move it away and type the same "
            "command: trials whose runs are recorded are looked up and not repeated."
        ) from error


def trial_in(frozen: FrozenTrial) -> Trial:
    """A trial that has ended, from Optuna's record of it."""
    attributes = frozen.user_attrs
    number, settings = int(attributes["number"]), dict(attributes["settings"])
    return Trial.from_dict(number, settings, attributes["outcome"])


def read(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    """The description of a journal's study, and its ended trials, each number once, in order."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(WholeLines(path))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    trials: dict[int, Trial] = {}
    for frozen in study.get_trials(deepcopy=False):
        if "outcome" in frozen.user_attrs and frozen.state.is_finished():
            trial = trial_in(frozen)
            trials.setdefault(trial.number, trial)
    return dict(study.user_attrs), [trials[number] for number in sorted(trials)]
