"""The owner of a trial: whether its process still runs, on this machine or on another."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

from suite.tune import claims

FORK = multiprocessing.get_context("fork")


def test_a_process_of_this_machine_is_looked_up(tmp_path: Path) -> None:
    me = claims.myself()
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    assert child.pid
    other = replace(me, name="other", process=child.pid, started=claims._started(child.pid))

    assert not claims.gone(me.to_dict(), tmp_path, me)
    assert not claims.gone(other.to_dict(), tmp_path, me)
    reused = replace(other, started="1")  # the number belongs to another process by now
    assert claims.gone(reused.to_dict(), tmp_path, me)
    child.kill()
    deadline = time.monotonic() + 300
    while not claims.gone(other.to_dict(), tmp_path, me) and time.monotonic() < deadline:
        time.sleep(0.01)
    # though nobody has waited for it: a zombie is gone
    assert claims.gone(other.to_dict(), tmp_path, me)
    child.join()
    assert claims.gone(None, tmp_path, me)


def test_a_process_of_another_machine_is_there_as_long_as_it_touches_its_file(
    tmp_path: Path,
) -> None:
    me, far = claims.myself(), replace(claims.myself(), host="elsewhere", name="far")
    (tmp_path / me.name).touch()
    assert claims.gone(far.to_dict(), tmp_path, me)
    with claims.present(far, tmp_path, beat=0.01):
        now = (tmp_path / me.name).stat().st_mtime
        os.utime(tmp_path / far.name, (now - 1000, now - 1000))
        deadline = time.monotonic() + 300
        while claims.gone(far.to_dict(), tmp_path, me) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not claims.gone(far.to_dict(), tmp_path, me)  # it was touched again
    assert not (tmp_path / far.name).exists()
    (tmp_path / far.name).touch()
    os.utime(tmp_path / far.name, (now - claims.STALE - 60, now - claims.STALE - 60))
    assert claims.gone(far.to_dict(), tmp_path, me)
    os.utime(tmp_path / far.name, (now - claims.STALE + 60, now - claims.STALE + 60))
    assert not claims.gone(far.to_dict(), tmp_path, me)
