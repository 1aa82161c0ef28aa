"""The machine that timing needs to itself: one pass at a time, and the cores of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from suite import paths
from suite.errors import ConfigError
from suite.time import machine


def test_two_timing_passes_do_not_overlap(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(paths.ROOT)!r})\n"
    script += "from pathlib import Path\nfrom suite.time import machine\n"
    script += f"with machine.alone(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=rf"another timing pass \(process {other.pid}\)"),
            machine.alone(tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.communicate()
    with machine.alone(tmp_path):  # a process that was killed holds nothing
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    with machine.alone(tmp_path):
        pass


def test_the_cores_of_others_are_what_is_busy_less_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accounts = iter([(10.0, 100.0, 5.0), (12.0, 103.0, 6.5)])
    monkeypatch.setattr(machine, "_accounts", lambda: next(accounts))
    assert machine.Watch().cores() == (3 - 1.5) / 2


@pytest.mark.parametrize("second", [None, (10.05, 100.0, 5.0)])
def test_where_the_system_does_not_tell_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch, second: tuple[float, float, float] | None
) -> None:
    accounts = iter([(10.0, 100.0, 5.0), second])
    monkeypatch.setattr(machine, "_accounts", lambda: next(accounts))
    assert machine.Watch().cores() is None


def test_runs_of_the_suite_are_recognised_by_their_commands(tmp_path: Path) -> None:
    commands = {
        "11": "python\0-m\0suite\0optimizer=kfac\0",
        "12": "/usr/bin/python3\0-m\0suite.tune\0task=mlp\0",
        "13": "python\0-m\0suiteness\0",
        "14": "grep\0suite\0",
        str(os.getpid()): "python\0-m\0suite.time\0",
        "15": "",
    }
    for number, text in commands.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_text(text)
    (tmp_path / "16").mkdir()
    assert machine.other_runs(tmp_path) == [
        "/usr/bin/python3 -m suite.tune task=mlp",
        "python -m suite optimizer=kfac",
    ]
