"""Training: the one loop that serves every optimizer, and all of a run that has state."""

from __future__ import annotations

import gc
import io
import math
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from optimizers import Objective, UnsupportedError
from optimizers.distributed import SINGLE_PROCESS, RankLostError, SingleProcess
from optimizers.objective.step_state import couples
from suite.config import device
from suite.config.instantiate import construct
from suite.config.plan import Plan
from suite.files import digest, write_atomically
from suite.results.directory import COUNTED, History, PathFile, Row, RunRecord
from suite.results.status import Status
from suite.training.averaged_weights import judged_weights, trained
from suite.training.distributed import World
from suite.training.log import Log
from suite.training.measures import environment, layer_coverage, memory, oracle_costs
from suite.training.measures.telemetry import LayerFile, Telemetry
from suite.training.optimizer import averages, build_optimizer
from suite.training.progress import ProgressLine
from suite.training.seeds import stream
from suite.training.signals import noted
from suite.training.summary import Summary, summarise
from suite.training.wandb_mirror import Tracker
from tasks.task import Batch, Task

EXPLODED = 1e6  # a loss of this many times the first one will not come back
LOGGED_ROWS = 200
FIRST_ROWS = (
    100  # steps that are logged one by one, where second-order methods do most of their work
)
FAILED = frozenset({Status.OOM, Status.UNSUPPORTED, Status.ERROR})
CHECKPOINT_SHARE = 0.005  # of a run's time that may go into checkpoints
STATISTICS_BATCHES = (
    10  # of training data, that batch normalisation sees anew at weights it has not been trained at
)

Taken = tuple[Tensor | float, float]  # a step's loss at its start, and its seconds
Loop = Generator[Objective, Taken | None, Status]

Watch = Callable[
    [int, float], str | None
]  # told the step and the metric at each evaluation; a reason to stop, or None


class Training:
    """Everything of one run that has state.

    Of several processes each has a training of its own; all take the same steps on the same
    parameters, and one of them evaluates, decides and records.
    """

    kind: ClassVar[type[Objective]] = Objective

    def __init__(
        self,
        plan: Plan,
        task: Task,
        place: torch.device,
        world: World | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.plan = plan
        self.watch = watch
        self.stopped = ""
        self.task = task
        self.place = place
        self.world = world or World()
        self.ranks = self.world.ranks
        self.model = task.model(stream(plan.seed, "model"))
        self.ranks.broadcast_(list(self.model.state_dict().values()))
        self.optimizer = build_optimizer(plan, task, self.model, self.ranks)
        self.schedule = self._build_schedule()
        self.clock = device.clock(place)
        self.generator = torch.Generator(place)
        self.fresh_drawn = 0
        self.step = 0
        self.seconds = 0.0
        self.loss = math.nan
        self.first_loss = math.nan
        self.value = math.nan
        self.best = math.nan
        self.target: dict[str, float] = {}
        self.interrupted = False
        self.saved_at = self.save_seconds = 0.0
        self.costs: oracle_costs.Costs = {}
        self.peak_bytes: int | None = None
        self.objective = self._objective(
            self.model, ranks=self.ranks, parts=plan.config["accumulate"]
        )
        self.ranks.share(len(self.objective.inputs))
        self.telemetry = self._build_telemetry()

    # -- building ----------------------------------------------------------------------------------

    def _build_schedule(self) -> torch.optim.lr_scheduler.LRScheduler | None:
        node = self.plan.config["schedule"]
        return construct(node, self.optimizer) if node.get("_target_") else None

    def _build_telemetry(self) -> Telemetry | None:
        config = self.plan.config
        if not config["telemetry"] or not self.world.leads:
            return None
        return Telemetry(
            self.model,
            self.task,
            self.optimizer,
            self.plan.seed,
            products=config["telemetry_products"],
            autocast=self.plan.precision == "bf16",
            parts=config["accumulate"],
        )

    def _objective(
        self,
        model: torch.nn.Module,
        compiled: bool | None = None,
        counts: Counter[str] | None = None,
        ranks: SingleProcess = SINGLE_PROCESS,
        parts: int = 1,
        batch: Batch | None = None,
    ) -> Objective:
        """The first mini-batch's loss; `compiled` is the plan's choice unless it is given."""
        inputs, targets = batch or self._first_batch()
        compiled = self.plan.config["compile"] if compiled is None else compiled
        forward: Any = torch.compile(model) if compiled else model
        return self.kind(
            forward,
            self.task.loss_fn,
            inputs,
            targets,
            l2=self.task.l2,
            sampler=self._fresh,
            generator=self.generator,
            autocast=self.plan.precision == "bf16",
            counts=counts,
            ranks=ranks,
            parts=parts,
            clip=self.plan.config["clip_grad_norm"],
        )

    def _first_batch(self) -> Batch:
        return next(self.task.batches("train", stream(self.plan.seed, "data")))

    def _batches(self) -> Iterator[Batch]:
        """The training data from the present step on."""
        return self.task.batches("train", stream(self.plan.seed, "data"), start=self.step)

    def _fresh(self) -> Batch:
        batches = self.task.batches(
            "train", stream(self.plan.seed, "fresh"), start=self.fresh_drawn
        )
        self.fresh_drawn += 1
        return next(batches)

    # -- before the first step ---------------------------------------------------------------------

    def prepare(self) -> None:
        """Measure what is measured off the clock, on models of its own, then set every random stream to its start."""
        devices = [self.place] if self.place.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self.costs = self.ranks.broadcast_object(
                self._oracle_costs() if self.world.leads else {}
            )
            self.peak_bytes = self.ranks.broadcast_object(self._warm_up())
        self.fresh_drawn = 0
        self.generator.manual_seed(stream(self.plan.seed, "optimizer"))
        rank = self.ranks.rank
        torch.manual_seed(stream(self.plan.seed, f"dropout/{rank}" if rank else "dropout"))

    def _oracle_costs(self) -> oracle_costs.Costs:
        threads, config = torch.get_num_threads(), self.plan.config
        facts = [
            config["task"],
            config["precision"],
            self.place.type,
            environment.processor(),
            threads,
            torch.__version__,
            oracle_costs.ORACLES,
        ]
        path = self.plan.results / "costs" / f"{self.plan.task}-{digest(facts)}.json"
        return oracle_costs.load_or_measure(
            # products need a graph that a compiled model does not keep
            path,
            lambda: oracle_costs.measure(
                self.task, self._objective(self.task.model(0), compiled=False), self.clock
            ),
        )

    def _warm_up(self) -> int | None:
        """Two untimed steps of a copy, the second one's memory measured.

        A compiled model is compiled here.

        None where that takes too long: the CPU's profiler keeps every operation, and a minute of a
        second-order method's products would fill the memory. Of several processes each takes these
        steps by itself, on its share.
        """
        counts = memory.Limited(memory.LONGEST) if self.place.type == "cpu" else None
        inputs, targets = self._first_batch()
        share = self.ranks.share(len(inputs))
        batch = (inputs[share], targets[share]) if self.ranks.size > 1 else (inputs, targets)

        def first() -> memory.Step:
            twin = self.task.model(stream(self.plan.seed, "model"))
            optimizer = build_optimizer(self.plan, self.task, twin, self.ranks)
            objective = self._objective(
                twin, counts=counts, parts=self.plan.config["accumulate"], batch=batch
            )
            optimizer.step(objective)
            return lambda: optimizer.step(objective.on(*batch))

        try:
            return memory.peak_bytes(first, sum(tensor.nbytes for tensor in batch), self.place)
        except memory.TooLongError:
            return None

    # -- training ----------------------------------------------------------------------------------

    def carry_out(self, record: RunRecord, tracker: Tracker, *, resume: bool) -> Summary:
        """Train to the end or to a failure, and say how it went."""
        status, message = Status.ERROR, ""
        try:
            self.prepare()
            with self._interruptible():
                status = self.train(record, tracker, resume=resume)
            message = self.stopped or self._remark()
        except Exception as error:
            status, message = self.failure(error)
        if status in FAILED:
            self.world.tell_failure(f"{status}: {message}")
        return self._summarise(status, message)

    def failure(self, error: Exception) -> tuple[Status, str]:
        """The word and the message that an exception in a training becomes.

        An unforeseen one is printed.
        """
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return Status.OOM, str(error).partition("\n")[0]
        if isinstance(error, UnsupportedError):
            return Status.UNSUPPORTED, str(error)
        if not isinstance(error, RankLostError):
            traceback.print_exception(error)
        out_of_memory = "can't allocate memory" in str(error)
        return (Status.OOM if out_of_memory else Status.ERROR), self.world.explain(error)

    def _remark(self) -> str:
        """What a reader of a run by several processes has to know."""
        coupled = any(
            isinstance(module, _NormBase) and couples(module) for module in self.model.modules()
        )
        if self.ranks.size == 1 or not coupled:
            return ""
        return f"batch normalisation saw the share of each of the {self.ranks.size} ranks, not the whole batch"

    def train(self, record: RunRecord, tracker: Tracker, *, resume: bool) -> Status:
        """The loop, on this run's own optimizer. Only `optimizer.step` is on the clock."""
        clock, optimizer = self.clock, self.optimizer
        with closing(self.loop(record, tracker, resume=resume)) as loop:
            current = advanced(loop)
            while not isinstance(current, Status):
                start = clock()
                loss = optimizer.step(current)
                took = clock() - start
                current = advanced(loop, (loss, took))
        return current

    def loop(self, record: RunRecord, tracker: Tracker, *, resume: bool) -> Loop:
        """All of a training but its steps.

        Gives the loss to be stepped on, takes its value and the step's seconds.
        """
        untrained = self._evaluate("val")
        history = History(record.history, list(untrained))
        path = self._path(record, resume=resume)
        layers = None if self.telemetry is None else LayerFile(record.telemetry)
        log = Log(history, tracker, path, layers, kept=self.world.leads)
        if resume:
            self._restore(torch.load(record.checkpoint, map_location=self.place, weights_only=True))
            log.rewind(self.step)
        else:
            self._judge(untrained)
            if path is not None:
                path.note(0, self._point())
            log.write(self._row(untrained), flush=True)
        steps, limit = self.plan.steps, self.plan.config["max_seconds"] or math.inf
        most = self.plan.config["max_grad_equivalents"]
        given = self.plan.config["log_every"]
        log_every, first = given or max(1, steps // LOGGED_ROWS), 0 if given else FIRST_ROWS
        eval_every = self.task.eval_every
        batches = self._batches()
        objective, schedule, telemetry = self.objective, self.schedule, self.telemetry

        def logged(step: int) -> bool:
            return step == steps or step % eval_every == 0 or step % log_every == 0 or step <= first

        line = ProgressLine(self.plan.title, steps, enabled=self._shown)
        with _settled_heap(), log, line as progress:
            while self.step < steps:
                inputs, targets = next(batches)
                current = objective.on(inputs, targets)
                watched = telemetry is not None and logged(self.step + 1)
                if telemetry is not None and watched:
                    telemetry.begin(inputs, targets)
                taken = yield current
                assert taken is not None
                loss, took = taken
                # the slowest rank's time, and whether any of them is asked to end
                took, asked = self.ranks.all_reduce_max((took, self._asked))
                self.seconds += took
                self.step += 1
                self.loss = float(loss)
                if telemetry is not None and watched:
                    telemetry.end()
                if path is not None:
                    path.note(self.step, self._point())
                if schedule is not None:
                    schedule.step()
                if not self._sound():
                    log.write(self._row(), flush=True)
                    return Status.DIVERGED
                spent = self.seconds > limit or (
                    most is not None and self._grad_equivalents() > most
                )
                last = self.step == steps or spent
                if last or self.step % eval_every == 0:
                    status = self._checkpointed_evaluation(record, log, last)
                    progress.update(self.step, self._report())
                    if status is not None:
                        return status
                elif self.step % log_every == 0 or self.step <= first:
                    log.write(self._row())
                    progress.update(self.step, self._report())
                if asked or (self.ranks.size == 1 and self._asked):
                    log.flush()
                    self._save(record)
                    return Status.INTERRUPTED
        return Status.DONE

    def _checkpointed_evaluation(self, record: RunRecord, log: Log, last: bool) -> Status | None:
        """Evaluate, log, checkpoint; the status if the run ends here.

        The test split is looked at once, at the end.
        """
        metrics = self._evaluate("val")
        if not math.isfinite(metrics[self.task.metric]):
            log.write(self._row(), flush=True)
            return Status.DIVERGED
        self._judge(metrics)
        status = self._ending(last)
        tested = self._evaluate("test") if status is not None else {}
        log.write(self._row(metrics, tested), flush=True, layers=self._layers())
        if status is not None:
            with self._judged_weights():
                self._save(record)
        elif self._watched_out():
            self._save(record)
            return Status.INTERRUPTED
        elif self.ranks.broadcast_object(self._checkpoint_is_due()):
            self._save(record)
        return status

    def _checkpoint_is_due(self) -> bool:
        return perf_counter() - self.saved_at > self.save_seconds / CHECKPOINT_SHARE

    def _watched_out(self) -> bool:
        """Whether whoever watches the run has seen enough.

        It can be gone on with like one that was interrupted.
        """
        if self.watch is not None:
            self.stopped = self.ranks.broadcast_object(
                (self.watch(self.step, self.value) or "") if self.world.leads else ""
            )
        return bool(self.stopped)

    def _ending(self, last: bool) -> Status | None:
        if self.plan.config["stop_at_target"] and self.target:
            return Status.TARGET
        if not last:
            return None
        return Status.DONE if self.step == self.plan.steps else Status.TIMEOUT

    def _sound(self) -> bool:
        """Whether the loss is a number of a believable size."""
        if math.isnan(self.first_loss):
            self.first_loss = self.loss
        return math.isfinite(self.loss) and self.loss <= EXPLODED * max(1.0, abs(self.first_loss))

    @property
    def failures(self) -> dict[str, int]:
        """What the optimizer survived so far, by name; a continuation counts on."""
        return dict(getattr(self.optimizer, "failures", {}))

    @failures.setter
    def failures(self, counts: dict[str, int]) -> None:
        if counts:
            self.optimizer.failures = Counter(counts)  # type: ignore[attr-defined]

    # -- what is known at a step -------------------------------------------------------------------

    def _evaluate(self, split: str) -> dict[str, float]:
        """The metrics, which one process computes and tells the others."""
        with self._judged_weights(timed=split == "val"):
            metrics = self._measured(split) if self.world.leads else {}
        self._require_unison()
        return self.ranks.broadcast_object(metrics)

    def _measured(self, split: str) -> dict[str, float]:
        """The metrics of the model as it is."""
        return self.task.evaluate(self.model, split)

    @contextmanager
    def _judged_weights(self, timed: bool = False) -> Iterator[None]:
        """The weights that the optimizer wants to be judged by.

        What it takes to get there and back is part of the method: its seconds are on the run's
        clock if `timed`, and the forward passes are counted. It is so once for each evaluation; a
        final test and checkpoint use what is known.
        """
        if (
            not averages(self.optimizer) or not self.step
        ):  # before the first step there is one place only
            yield
            return
        seed = stream(self.plan.seed, "statistics")
        leads = self.world.leads
        with judged_weights(
            self.model, self.optimizer, self.task, seed, self.clock, renews=leads
        ) as trip:
            yield
        if timed:
            (took,) = self.ranks.all_reduce_max((trip.seconds,))
            self.seconds += took
            self.objective.counts["value"] += trip.passes

    def _require_unison(self) -> None:
        """Every process computes the same steps, so a difference of one bit is a fault that would only grow."""
        if self.ranks.size == 1:
            return
        sums = torch.stack(
            [p.detach().double().sum().cpu() for p in self.model.parameters()]
        ).nan_to_num()
        most, least = self.ranks.all_reduce_max((float(sums.sum()), -float(sums.sum())))
        if most != -least:
            raise RuntimeError(
                f"the ranks' parameters have come apart by step {self.step}: {self.plan.optimizer} "
                f"does something that "
                "differs between processes; run it in one process"
            )

    def _judge(self, metrics: dict[str, float]) -> None:
        """Note the last and the best value of the metric, and the first time it reached the target."""
        self.value = metrics[self.task.metric]
        sign = 1.0 if self.task.direction == "max" else -1.0
        if math.isnan(self.best) or sign * self.value > sign * self.best:
            self.best = self.value
        target = self.plan.config["target"]
        if target is not None and not self.target and sign * self.value >= sign * target:
            self.target = {
                "step": self.step,
                "seconds": self.seconds,
                "grad_equivalents": self._grad_equivalents(),
            }

    def _grad_equivalents(self) -> float:
        return oracle_costs.grad_equivalents(self.objective.counts, self.costs)

    def _row(
        self, validation: dict[str, float] | None = None, test: dict[str, float] | None = None
    ) -> Row:
        counts = self.objective.counts
        row: Row = {
            "step": self.step,
            "epoch": round(self.step / self.task.steps_per_epoch, 4),
            "seconds": round(self.seconds, 6),
            "loss": self.loss if self.step else "",
            "lr": self.optimizer.param_groups[0].get("lr", ""),
            **{name: counts[name] for name in COUNTED},
            "grad_equivalents": round(self._grad_equivalents(), 3),
        }
        row.update({f"val/{name}": value for name, value in (validation or {}).items()})
        row.update({f"test/{name}": value for name, value in (test or {}).items()})
        if self.telemetry is not None:
            row.update(self.telemetry.row(evaluated=validation is not None))
        return row

    def _layers(self) -> Mapping[tuple[str, str], float]:
        return {} if self.telemetry is None else self.telemetry.layers

    def _path(self, record: RunRecord, *, resume: bool) -> PathFile | None:
        """The file of the path, for a model of two parameters.

        A path whose beginning is lost is not gone on with.
        """
        two = self.world.leads and sum(parameter.numel() for parameter in trained(self.model)) == 2
        return PathFile(record.path) if two and (record.path.exists() or not resume) else None

    def _point(self) -> list[float]:
        return [
            float(value)
            for parameter in trained(self.model)
            for value in parameter.detach().flatten().tolist()
        ]

    @property
    def _shown(self) -> bool:
        """Whether a line on the terminal shows where the run is."""
        return self.plan.workers == 1 and self.world.leads

    def _report(self) -> str:
        return f"loss {self.loss:.4g}  {self.task.metric} {self.value:.4g}"

    # -- interruption and resumption ---------------------------------------------------------------

    @property
    def _asked(self) -> bool:
        """Whether this process has been asked to end."""
        return self.interrupted or self.world.asked

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let a step finish when Ctrl-C or a termination is asked for.

        The second Ctrl-C does not wait.

        Where there are several processes, their world listens for both.
        """
        if self.ranks.size > 1:
            yield
            return
        with noted(lambda: self.interrupted, lambda: setattr(self, "interrupted", True)):
            yield

    def _save(self, record: RunRecord) -> None:
        began = perf_counter()
        state = self._state()  # by every process: a method may share its state out
        if self.world.leads:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(record.checkpoint, buffer.getvalue())
        self.saved_at = perf_counter()
        self.save_seconds = self.saved_at - began

    def _state(self) -> dict[str, Any]:
        numbers = (
            "step",
            "seconds",
            "loss",
            "first_loss",
            "value",
            "best",
            "target",
            "fresh_drawn",
            "failures",
        )
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "numbers": {name: getattr(self, name) for name in numbers},
            "objective": self.objective.state_dict(),
            "generator": self.generator.get_state(),
            "host_generator": self.ranks.all_gather(torch.get_rng_state()[None]),
            "device_generator": self.ranks.all_gather(torch.cuda.get_rng_state(self.place)[None])
            if self.place.type == "cuda"
            else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if averages(
            self.optimizer
        ):  # the last checkpoint of a run holds the weights that it was judged by
            self.optimizer.train()
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        for name, value in state["numbers"].items():
            setattr(self, name, value)
        self.objective.load_state_dict(state["objective"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(self._own(state["host_generator"]))
        if state["device_generator"] is not None:
            torch.cuda.set_rng_state(self._own(state["device_generator"]), self.place)

    def _own(self, states: Tensor) -> Tensor:
        """This process's row of the random states of all."""
        return (
            states.cpu().view(self.ranks.size, -1)[self.ranks.rank].clone()
        )  # torch does not look at a view's offset

    def _summarise(self, status: Status, message: str) -> Summary:
        ended_well = status in (Status.DONE, Status.TARGET, Status.TIMEOUT, Status.INTERRUPTED)
        found: Summary = {
            "steps": self.step,
            "seconds": round(self.seconds, 6),
            "seconds_per_step": round(self.seconds / self.step, 9) if self.step else None,
            "final_loss": self.loss,
            f"best_{self.task.metric}": self.best,
            f"final_{self.task.metric}": self.value if ended_well else None,
            "target_step": self.target.get("step"),
            "target_seconds": self.target.get("seconds"),
            "target_grad_equivalents": self.target.get("grad_equivalents"),
            "counts": dict(self.objective.counts),
            "state_bytes": self._state_bytes(status),
            "peak_memory_bytes": self.peak_bytes,
        }
        if self.telemetry is not None:
            found |= self.telemetry.summary()
        if self.step and (rule_of := self.rules()):
            found["coverage"] = layer_coverage.shares(rule_of, self.model.named_parameters())
        return summarise(self.plan, self.task, status, message, found)

    def rules(self) -> dict[str, str]:
        """The rule that updates each parameter, where the optimizer has several."""
        return layer_coverage.rules(self.optimizer)

    def _state_bytes(self, status: Status) -> int | None:
        """Of this process; unknown after a failure among several, when the others do not answer any more."""
        return (
            None if self.ranks.size > 1 and status in FAILED else memory.state_bytes(self.optimizer)
        )


def advanced(loop: Loop, taken: Taken | None = None) -> Objective | Status:
    """Tell a loop how the step went, None to begin.

    The loss of the next step, or how the training ended.
    """
    try:
        return loop.send(taken)
    except StopIteration as ended:
        status: Status = ended.value
        return status


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Spare the garbage collector what existed before.

    Walking all of it costs as much as twenty small steps.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
