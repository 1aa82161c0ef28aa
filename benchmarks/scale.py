"""Seconds and memory to read ten thousand runs of a thousand rows, and to report on them.

    python benchmarks/scale.py [--runs 10000] [--rows 1000] [--trials 1] [--report] [--keep FOLDER]

The runs are generated, ten tasks by ten optimizers by `--trials` learning rates by the needed
number of seeds, and lie in a temporary folder (0.9 GB for the default sizes). They are read twice,
the second time from the cache. Each measurement is a separate process; processor seconds are those
of all its threads, on which the machine's other load has little effect.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

TASKS, OPTIMIZERS = 10, 10
METHODS = (
    "torch.optim.SGD",
    "torch.optim.AdamW",
    "optimizers.natural_gradient.kfac.KFAC",
    "torch.optim.LBFGS",
)
HEADER = (
    "step,epoch,seconds,loss,lr,value,grad,hvp,ggnvp,jac,grad_equivalents,"
    "val/loss,val/accuracy,test/accuracy"
)
EVALUATED = 50
LIMITS = {"load": (30.0, 2000.0), "cached": (30.0, 2000.0), "report": (120.0, None)}  # seconds, MB


def main() -> None:
    """Generate the runs and measure, or, in a started process, print one measurement."""
    options = _options()
    if options.measure:
        print(json.dumps(_measured(options.measure, options.keep)))
        return
    with tempfile.TemporaryDirectory(prefix="suite-scale-") as temporary:
        folder = options.keep or Path(temporary)
        if not (folder / "runs").exists():
            make_runs(folder / "runs", options.runs, options.rows, options.trials)
        for what in ("load", "cached", *(["report"] if options.report else [])):
            print(_line(what, _in_a_process(what, folder)), flush=True)


def make_runs(root: Path, count: int, rows: int, trials: int = 1) -> None:
    """Write `count` run directories with histories of `rows` rows."""
    random = np.random.default_rng(0)
    for number in range(count):
        task, optimizer = number % TASKS, number // TASKS % OPTIMIZERS
        seed, trial = divmod(number // (TASKS * OPTIMIZERS), trials)
        folder = root / f"task{task}" / f"method{optimizer}" / f"{number:08x}"
        folder.mkdir(parents=True)
        lr = float(f"{10 ** -(1 + 0.2 * trial):.6g}")
        text = _history(random, rows, lr, 0.5 + 0.04 * optimizer)
        (folder / "history.csv").write_text(text)
        (folder / "config.yaml").write_text(
            yaml.dump(_config(task, optimizer, seed, rows, lr), Dumper=yaml.CSafeDumper)
        )
        (folder / "summary.json").write_text(
            json.dumps(_summary(task, optimizer, seed, text), indent=2)
        )
        (folder / "environment.json").write_text(json.dumps(_environment(task), indent=2))


def _history(random: np.random.Generator, rows: int, lr: float, end: float) -> str:
    steps = np.arange(rows)
    losses = 2.3 * np.exp(-4 * steps / rows) * np.exp(0.05 * random.standard_normal(rows))
    seconds = np.cumsum(0.004 + 0.001 * random.random(rows))
    lines = [HEADER]
    for step, loss, spent in zip(steps.tolist(), losses.tolist(), seconds.tolist(), strict=True):
        value = end * step / rows
        tail = (
            f"{loss},{value},{value - 0.01}" if step % EVALUATED == 0 or step == rows - 1 else ",,"
        )
        first = f"{step},{step / 20},{spent:.6f},{loss},{lr}"
        lines.append(f"{first},{step},{step},0,{10 * step},0,{11.2 * step:.4f},{tail}")
    return "\n".join(lines) + "\n"


def _config(task: int, optimizer: int, seed: int, rows: int, lr: float) -> dict[str, object]:
    return {
        "optimizer": {
            "_target_": METHODS[optimizer % len(METHODS)],
            "lr": lr,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.01 * optimizer,
            "search": {"lr": {"low": 1e-5, "high": 0.3, "log": True}},
        },
        "task": {
            "_target_": f"tasks.vision.task{task}.Task",
            "data": "digits",
            "width": 60,
            "batch_size": 128,
        },
        "schedule": {"_target_": None},
        "seed": seed,
        "scale": "quick",
        "steps": rows - 1,
        "target": 0.6,
        "device": "cpu",
        "precision": "float32",
        "wandb": {"mode": "offline", "project": "scale", "job_type": "tune"},
        "experiment": "scale",
        "metric": "accuracy",
        "direction": "max",
        "command": f"python -m suite task=task{task} optimizer=method{optimizer} seed={seed} "
        f"optimizer.lr={lr}",
    }


def _summary(task: int, optimizer: int, seed: int, history: str) -> dict[str, object]:
    last = history.rsplit("\n", 2)[1].split(",")
    return {
        "status": "done",
        "task": f"task{task}",
        "optimizer": f"method{optimizer}",
        "seed": seed,
        "steps": int(last[0]),
        "seconds": float(last[2]),
        "seconds_per_step": float(last[2]) / int(last[0]),
        "final_loss": float(last[3]),
        "best_accuracy": float(last[12]),
        "final_accuracy": float(last[12]),
        "target": 0.6,
        "target_step": None,
        "state_bytes": 97120,
        "peak_memory_bytes": 2807772,
        "parallel": True,
        "message": "",
    }


def _environment(task: int) -> dict[str, object]:
    packages = {"torch": "2.13.0", "numpy": "2.4.6", "pandas": "3.1.1"}
    machine = {
        "python": "3.11.7",
        "packages": packages,
        "cpu": "Some CPU",
        "cores": 2,
        "threads": 1,
        "gpu": None,
    }
    return {**machine, "oracle_costs": {"value": 0.3 + 0.01 * task, "ggnvp": 1.1}}


# -- measuring -------------------------------------------------------------------------------------


def _in_a_process(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--keep", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measured(what: str, folder: Path) -> dict[str, float]:
    from suite.results.load import load_runs

    began, busy = time.perf_counter(), time.process_time()
    if what == "report":
        from suite.report.report import write_report
        from suite.results.frame import build_records

        records = build_records(*load_runs(folder / "runs"))
        loaded = time.perf_counter() - began
        (folder / "report").mkdir(exist_ok=True)
        write_report(records, folder / "report", "scale", "python benchmarks/scale.py")
        sizes = {"runs": len(records.frame), "until the tables": loaded}
    else:
        runs, damaged = load_runs(folder / "runs")
        if damaged:
            raise SystemExit(f"{len(damaged)} runs could not be read")
        sizes = {"runs": len(runs), "rows": sum(len(run.history) for run in runs)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    wall, processor = time.perf_counter() - began, time.process_time() - busy
    return {**sizes, "wall": wall, "processor": processor, "peak_mb": peak}


def _line(what: str, measured: dict[str, float]) -> str:
    seconds, memory = LIMITS[what]
    within = measured["wall"] <= seconds and (memory is None or measured["peak_mb"] <= memory)
    limit = f"at most {seconds:.0f} s" + ("" if memory is None else f" and {memory / 1000:.0f} GB")
    return (
        f"{what:7} {measured['runs']:.0f} runs: {measured['wall']:.1f} s, "
        f"{measured['processor']:.1f} s of processor, {measured['peak_mb']:.0f} MB at most "
        f"({limit}: {'met' if within else 'NOT met'})"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument(
        "--trials", type=int, default=1, help="learning rates of each pair (%(default)s)"
    )
    parser.add_argument("--report", action="store_true", help="measure the whole report, too")
    parser.add_argument("--keep", type=Path, help="make the runs here, and leave them")
    parser.add_argument("--measure", choices=tuple(LIMITS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
