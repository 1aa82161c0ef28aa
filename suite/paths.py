"""Where things are: the repository, its configurations, the results."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
INSTALLED = (
    PACKAGE / "configs"
).is_dir()  # the wheel has them here, a checkout beside its packages
CONFIGS = (PACKAGE if INSTALLED else ROOT) / "configs"


def results() -> Path:
    """The folder of all results.

    `SUITE_RESULTS`, else results/ in the repository, wherever the command was typed; an installed
    copy has no repository and takes results/ in the current folder.
    """
    home = Path.cwd() if INSTALLED else ROOT
    return Path(os.environ.get("SUITE_RESULTS") or home / "results").expanduser().resolve()
