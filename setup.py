"""What the wheel carries beside its packages; everything else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = {"configs": "suite/configs", "examples": "tasks/examples"}


class BuildWithConfigs(build_py):
    """Copies the folders beside the packages into the packages that read them."""

    def run(self) -> None:
        """Copy modules and the folders of `CARRIED`; an editable install needs no copies."""
        if self.editable_mode:
            super().run()
            return
        # modules of an earlier build, deleted since, would travel in the wheel
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for source, target in CARRIED.items():
            shutil.copytree(
                source,
                Path(self.build_lib) / target,
                ignore=shutil.ignore_patterns("__pycache__"),
                dirs_exist_ok=True,
            )


setup(cmdclass={"build_py": BuildWithConfigs})
