"""What the suite itself costs: its loop against a hand-written one, its import, its help.

Each comparison alternates the two sides in one process on one thread and reports medians and their
ratio, so that a noisy machine disturbs both alike; loops are timed in processor seconds of the
process (all its threads), which other processes disturb least, whole processes in wall-clock
seconds. Run by `make bench`; nothing here is asserted in tests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from suite.config.compose import compose_plan
from suite.config.plan import Plan
from suite.results.directory import RunRecord
from suite.training.run_context import build_context
from suite.training.runner import assemble, build_task
from suite.training.wandb_mirror import Tracker
from tasks.task import Task

ROUNDS = 11


def plan_for(task: str, steps: int, folder: Path, *extra: str) -> Plan:
    """A plan of SGD on a task, with all logging on."""
    pair = ["optimizer=sgd", f"task={task}"]
    return compose_plan([*pair, f"steps={steps}", "threads=1", "~tuned", *extra], folder)


def suite_loop(plan: Plan, task: Task) -> Callable[[], float]:
    """Seconds of the suite's loop over all steps, with history and W&B's offline file."""

    def measure() -> float:
        context = build_context(plan, task, torch.device("cpu"))
        record = RunRecord(plan.directory)
        record.begin(dict(plan.config), {}, resume=False)
        tracker = Tracker("offline", record.directory, plan.run_id, {}, project="benchmark")
        start = time.process_time()
        training = assemble(context, record, tracker)
        training.run(resume=False)
        tracker.flush()
        seconds = time.process_time() - start
        tracker.finish({}, 0)
        return seconds

    return measure


def plain_loop(plan: Plan, task: Task) -> Callable[[], float]:
    """Seconds of the same work written by hand.

    Batches, forward, backward, step, the list of losses, evaluations.
    """

    def measure() -> float:
        model = task.model(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=plan.config["optimizer"]["lr"])
        losses, metrics = [], []
        start = time.process_time()
        metrics.append(task.evaluate(model, "val"))
        for step, (inputs, targets) in zip(
            range(1, plan.steps + 1), task.batches("train", 0), strict=False
        ):
            optimizer.zero_grad()
            loss = task.loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if step % task.eval_every == 0:
                metrics.append(task.evaluate(model, "val"))
        task.evaluate(model, "test")
        return time.process_time() - start

    return measure


def interleaved(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Medians of alternating measurements; the first of each is a warm-up."""
    one(), other()
    pairs = [(one(), other()) for _ in range(ROUNDS)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def loop_row(title: str, bar: str, task_name: str, steps: int, *extra: str) -> list[str]:
    """The suite's loop over the hand-written one."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_for(task_name, steps, Path(folder), *extra)
        task = build_task(plan, torch.device("cpu"))
        ours, plain = interleaved(suite_loop(plan, task), plain_loop(plan, task))
    per_step = [f"{1e6 * seconds / steps:.1f} µs" for seconds in (ours, plain, ours - plain)]
    return [title, *per_step, f"{ours / plain:.3f}x", bar]


def process_seconds(*command: str) -> Callable[[], float]:
    """Seconds of a whole process."""

    def measure() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - start

    return measure


def import_seconds() -> float:
    """Seconds that `import optimizers` adds to `import torch`: the median over processes."""
    code = (
        "import torch, time; start = time.perf_counter(); import optimizers; "
        "print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(ROUNDS)
    ]
    return median(float(run.stdout) for run in runs)


def main() -> None:
    """Print every measurement beside its bar."""
    torch.set_num_threads(1)
    table = Table(
        "what",
        "ours",
        "against",
        "difference",
        "ratio",
        "bar",
        title="make bench: medians, one thread",
    )
    mlp, quadratic = "784-256-10 MLP, batch 128", "100-dimensional quadratic"
    for row in (
        loop_row(f"{mlp}, a step", "at most 1.015x", "mlp", 1000, "task.eval_every=1000"),
        loop_row(
            f"{quadratic}, a step", "at most 1.15x", "quadratic", 2000, "task.eval_every=2000"
        ),
        loop_row(f"{mlp}, 20 evaluations and checkpoints", "", "mlp", 1000),
        loop_row(f"{quadratic}, 100 evaluations and checkpoints", "", "quadratic", 2000),
    ):
        table.add_row(*row)
    imports = f"{1e3 * import_seconds():.0f} ms"
    table.add_row("import optimizers, after torch", imports, "", "", "", "under 50 ms")
    helped, empty = interleaved(process_seconds("-m", "suite", "--help"), process_seconds("-c", ""))
    own, other = f"{helped:.2f} s", f"{empty:.2f} s"
    table.add_row("python -m suite --help", own, other, "", "", "under 2 s")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
