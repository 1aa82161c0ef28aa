"""Download full data sets: `python scripts/fetch_data.py NAME`, or `--list`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.data import data_directory
from tasks.data.fetch import FETCHABLE, FetchFailedError, fetch


def main() -> int:
    """Fetch the data sets named on the command line; return 0 if all are present."""
    parser = argparse.ArgumentParser(
        description=f"Bring data sets into {data_directory()} (SUITE_DATA moves it)."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(FETCHABLE)}"
    )
    parser.add_argument("--list", action="store_true", help="say what can be fetched")
    arguments = parser.parse_args()
    if arguments.list or not arguments.names:
        for name, wanted in FETCHABLE.items():
            print(f"{name:16}{wanted.description}")
        return 0
    for name in arguments.names:
        try:
            print(f"{name}: {fetch(name)}")
        except (FetchFailedError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
