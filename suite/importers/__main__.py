"""`python -m suite.importers`.

Results recorded elsewhere, as an archive that every report and comparison reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

FORMATS = {
    "algoperf": "logs of the AlgoPerf benchmark: a submission's folder, or one of several "
    "submissions",
    "deepobs": "DeepOBS's JSON: a file, or a folder of them",
    "wandb": "offline runs of Weights & Biases: a .wandb file, or a folder of them; with --online "
    "<entity>/<project>",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read one format and write an archive."""
    from suite.config.messages import answered

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    with answered(typed):
        return _import(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suite.importers", description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, about in FORMATS.items():
        one = formats.add_parser(name, help=about, description=about)
        one.add_argument("path", metavar="PATH")
        one.add_argument(
            "--out", type=Path, required=True, metavar="ARCHIVE", help="the archive, a folder"
        )
        one.add_argument(
            "--about", default="", metavar="TEXT", help="a sentence that is kept with the runs"
        )
        if name == "wandb":
            one.add_argument(
                "--metric", help="the metric that counts, where the runs do not name it"
            )
            one.add_argument(
                "--online", action="store_true", help="PATH is <entity>/<project> on the server"
            )
    return parser


def _import(options: argparse.Namespace) -> int:
    from suite.importers import algoperf, deepobs, wandb
    from suite.results.archive import write_archive

    if options.format == "algoperf":
        runs = algoperf.read(Path(options.path))
    elif options.format == "deepobs":
        runs = deepobs.read(Path(options.path))
    elif options.online:
        runs = wandb.read_api(options.path, options.metric)
    else:
        runs = wandb.read(Path(options.path), options.metric)
    write_archive(runs, options.out, about=options.about)
    for kind in ("task", "optimizer"):
        print(f"{kind}: {', '.join(sorted({getattr(run, kind) for run in runs}))}")
    print(f"{options.out}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    print(f"report: python -m suite.report --runs {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
