"""Where things are: the repository, its configurations, the results."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def results() -> Path:
    """The folder of all results.

    `SUITE_RESULTS`, else results/ in the repository, wherever the command was typed.
    """
    return Path(os.environ.get("SUITE_RESULTS") or ROOT / "results").expanduser().resolve()
