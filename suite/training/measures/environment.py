"""The machine and the versions that stand with a run's numbers."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from suite.config.device import cores
from suite.paths import INSTALLED, ROOT

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "hydra-core",
    "wandb",
    "pytorch-optimizer",
)


def describe(device: torch.device, threads: int, world_size: int = 1) -> dict[str, Any]:
    """Versions, processor, GPU, threads of a process, processes, and the commit of the code."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cpu": processor(),
        "cores": cores(),
        "threads": threads,
        "world_size": world_size,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "git_commit": commit(),
    }


@functools.cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def commit() -> str | None:
    """The commit of the working tree, with a + if tracked files differ from it.

    None outside a repository, and of an installed copy, which may lie in somebody else's.
    """
    if INSTALLED:
        return None
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
