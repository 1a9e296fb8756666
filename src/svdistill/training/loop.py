"""The training loop: an epoch is one step after the other; around it a run is watched and saved."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import torch

from svdistill.data import standardize
from svdistill.errors import CheckpointError, SvdistillError, SvdistillWarning
from svdistill.gradients import COMPARED
from svdistill.nets import compile_module, eval_mode
from svdistill.records import RunRecord
from svdistill.training import checkpoint
from svdistill.training.average import MovingAverage
from svdistill.training.best import BestWeights
from svdistill.training.course import Course
from svdistill.training.engine import Engine
from svdistill.training.evaluate import evaluate
from svdistill.training.monitor import Monitor
from svdistill.training.objective import locate
from svdistill.training.optimizers import set_learning_rate
from svdistill.training.plan import TrainingPlan
from svdistill.training.post_mortem import PostMortem
from svdistill.training.processes import Processes
from svdistill.training.progress import NoProgress, Progress
from svdistill.training.reduce import average_buffers
from svdistill.training.state import RunState
from svdistill.training.steps import Steps, make_steps
from svdistill.training.trouble import all_alike, first_layer


def fit(engine: Engine, plan: TrainingPlan, record: RunRecord, *, progress: Progress | None = None) -> None:
    """Train the student to the last epoch, or resume where an interrupted run stopped.

    After each epoch: one line in ``metrics.jsonl``, the checkpoint ``last.pt`` and, where the network was evaluated
    and its accuracy is the best so far, ``best.pt``; until the end, ``previous.pt`` is the last checkpoint but one.
    Where there is a checkpoint at the start, the run resumes from it; on a CPU bit for bit as if it had never stopped.
    Where the last is damaged, it resumes from the one before, and metrics that do not agree with a checkpoint are
    restored from it, each with a warning. At the end the student has the weights of the last epoch and the
    distiller is in eval mode. Momentum starts anew in each stage.

    Where the plan asks for an average of the weights, that is what the student has at the end and ``accuracy`` is of;
    ``raw_accuracy`` is of the weights themselves. It starts anew in each stage. Where the plan's images are to validate
    on, the figures are called ``validation_accuracy`` and the like, and at the end the student has the weights, or
    their average, of the epoch that was best by them, the earliest of several.

    Where several processes do it together, each has its shard of every batch and of the evaluation, and all have the
    same weights after every step. Batch norm's running statistics are averaged over them after each epoch. Rank zero
    alone writes and is watched; all read the checkpoint, which does not depend on their number.

    Args:
        engine: device and precision, from :func:`svdistill.training.launch`.
        plan: what is trained, on what and for how long; the distiller is moved to the device.
        record: the run's folder, made by :meth:`RunRecord.create`.
        progress: who is told how far the run is; of the steps only on rank zero.

    Raises:
        CheckpointError: every checkpoint is damaged, or the last is of another model, optimizer or data set, or cannot
            be written.
        DataError: the metrics are damaged, and the checkpoint is of a version that kept no copy of them.
        TrainingError: the loss or a weight is no longer finite, or the transfer loss set most samples aside; or
            another process has ended.
    """
    processes, progress = Processes(engine), progress or NoProgress()
    seed = torch.initial_seed()
    _to_device(engine, plan)
    state = _begin(engine, plan)
    _resume(state, record, processes, epochs=plan.epochs)
    processes.broadcast_state(plan.distiller)
    stages, post_mortem = _Stages(engine, plan, state), PostMortem(record, state)
    try:
        progress.start(plan.epochs, len(plan.batches), state.epoch)
        while state.epoch < plan.epochs:
            monitor = Monitor(
                state,
                post_mortem,
                progress,
                broke_first=stages.broke_first,
                precision=engine.precision,
                checkpoint_minutes=plan.checkpoint_minutes,
                is_rank_zero=processes.is_rank_zero,
            )
            processes.vary_random_numbers(seed, state.epoch, plan.batches.position)
            metrics = _epoch(engine, plan, state, stages, monitor, processes)
            _close_epoch(metrics, plan, state, record, processes)
            progress.epoch(metrics)
    except SvdistillError as error:
        error.exit_status = 1  # work has begun
        raise
    finally:
        stages.end()
        progress.finish()
    processes.on_rank_zero(partial(_settle, record))
    state.hand_over()
    plan.distiller.eval()


def _begin(engine: Engine, plan: TrainingPlan) -> RunState:
    model = plan.distiller
    average = None if plan.ema is None else MovingAverage(model, decay=plan.ema)
    best = BestWeights(model) if plan.validates else None
    return RunState(model, plan.optimizer, plan.batches, device=engine.device, average=average, best=best)


def has_checkpoint(record: RunRecord) -> bool:
    """Whether a run has a checkpoint that is whole, so that :func:`fit` would resume it."""
    return any(map(checkpoint.is_whole, record.resumable))


class _Stages:
    """The stages of a run, of which one is on at a time, with its steps."""

    def __init__(self, engine: Engine, plan: TrainingPlan, state: RunState) -> None:
        self._engine = engine
        self._plan = plan
        self._state = state
        self._course = self._begin_course(0)
        self._number: int | None = None
        self._steps: Steps | None = None
        self._learning = ExitStack()

    def steps(self, number: int, *, anew: bool) -> Steps:
        """Return the steps of a stage, from the same memory as long as it lasts.

        Args:
            number: of the stage.
            anew: whether it is just beginning.
        """
        if anew:
            self._state.begin_stage()
        if self._steps is None or self._number != number:
            self._steps = None  # a graph keeps its memory: the last stage's goes first
            stage = self._plan.stages[number]
            self._course = self._begin_course(number)
            self.end()
            self._learning.enter_context(stage.learning(self._plan.distiller.student))
            self._number, self._steps = number, make_steps(self._engine, self._plan, self._state, stage.objective)
        return self._steps

    def end(self) -> None:
        """Let the whole student learn again."""
        self._learning.close()

    def _begin_course(self, number: int) -> Course:
        smoothing = self._plan.stages[number].objective.label_smoothing
        return Course(self._plan.batches.labels, self._plan.test.num_classes, label_smoothing=smoothing)

    def judge(self, accuracy: float, *, lr: float) -> None:
        """Warn where the epoch that was just done got nowhere.

        Args:
            accuracy: on the training images, 0 to 1.
            lr: the learning rate that it had.
        """
        metrics = self._state.metrics
        said = self._course.judge(metrics.skips.losses(), accuracy=accuracy, images=metrics.images)
        if said is not None:
            dead = self._dead_layer()
            where = "" if dead is None else f"; from its layer {dead} on the student gives the same for all images"
            warn(
                f"epoch {self._state.epoch + 1}: {said}{where}; lower lr (now {lr:g}), take a network with batch norm, "
                "or check that the labels belong to the images",
                SvdistillWarning,
                stacklevel=2,
            )

    @torch.no_grad()
    def _dead_layer(self) -> str | None:
        plan, device = self._plan, self._engine.device
        (raw,) = plan.test.batches([torch.arange(min(16, len(plan.test)))])
        images = standardize(raw.to(device), plan.mean.to(device), plan.std.to(device))
        student = plan.distiller.student
        with torch.compiler.set_stance("force_eager"), eval_mode(student), first_layer(student, all_alike) as layers:
            student(images)
        return layers[0] if layers else None

    def broke_first(self) -> str | None:
        """Say what was the first that was not finite in the latest step; see `trouble.broke_first`."""
        return None if self._steps is None else self._steps.broke_first()


def _epoch(
    engine: Engine, plan: TrainingPlan, state: RunState, stages: _Stages, monitor: Monitor, processes: Processes
) -> dict[str, Any]:
    """Train for an epoch, or what is left of it, evaluate, and return the line for the metrics."""
    number, epoch = locate(plan.stages, state.epoch)
    stage = plan.stages[number]
    steps = stages.steps(number, anew=epoch == 0 and state.metrics.steps == 0)
    lr = set_learning_rate(plan.optimizer, stage.rate(epoch))
    plan.distiller.train()
    for images in steps.epoch(epoch):
        if state.average is not None:
            state.average.follow()
        monitor.step(images=images)
    average_buffers(plan.distiller, processes)
    if state.average is not None:
        with state.average.applied():
            average_buffers(plan.distiller, processes)
    figures = monitor.end()
    if not stage.objective.has_main:  # nothing that the transfer gradient could be compared with
        figures = {name: value for name, value in figures.items() if name not in COMPARED}
    # While the rate is still rising, a loss that does not fall says nothing.
    if stage.objective.main > 0 and epoch >= stage.warm_up and processes.is_rank_zero:
        stages.judge(figures["train_accuracy"], lr=lr)
    done = state.epoch + 1
    if done % plan.evaluate_every == 0 or done == plan.epochs:
        figures |= _measure(engine, plan, state, processes)
    part = {"stage": number + 1} if len(plan.stages) > 1 else {}
    return {"epoch": done, **part, "seconds": monitor.seconds(), "lr": lr, **figures}


def _measure(engine: Engine, plan: TrainingPlan, state: RunState, processes: Processes) -> dict[str, float]:
    """Measure the student; where its weights are averaged, with the average, and with the weights themselves."""
    look = partial(evaluate, engine, plan.distiller, plan.test, mean=plan.mean, std=plan.std, shard=processes.shard)
    name = plan.measures
    if state.average is None:
        return {name: look()["accuracy"]}
    raw = look()["accuracy"]
    with state.average.applied():
        return {name: look()["accuracy"], f"raw_{name}": raw}


def _close_epoch(
    metrics: dict[str, Any], plan: TrainingPlan, state: RunState, record: RunRecord, processes: Processes
) -> None:
    """Write an epoch down and close it, on rank zero with its checkpoints."""
    if processes.is_rank_zero:
        state.lines = (state.lines or "") + record.metrics.append(metrics)
    best = state.next_epoch(metrics.get(plan.measures))
    if processes.is_rank_zero:
        # last.pt comes last: what a kill before it leaves behind is written again, the same, when the run resumes.
        if best:
            state.save(record.best)
        state.save(record.last, keep=record.previous)


def _to_device(engine: Engine, plan: TrainingPlan) -> None:
    plan.distiller.to(engine.device)
    if plan.compile:
        compile_module(plan.distiller.student)
        if engine.device.type == "cuda":  # on a CPU it gains nothing and takes half a minute
            plan.distiller.compile_losses()


def _resume(state: RunState, record: RunRecord, processes: Processes, *, epochs: int) -> None:
    found = processes.on_rank_zero(partial(_choose, record))
    if found is not None:
        processes.on_all_ranks(partial(state.load, found))
    elif processes.on_rank_zero(record.metrics.count) > 1:
        warn(
            f"no checkpoint of {record.path} is left, though its metrics tell of more than one epoch; it begins again",
            SvdistillWarning,
            stacklevel=2,
        )
    if state.epoch > epochs:
        raise CheckpointError(
            f"the checkpoint {found} has {state.epoch} epochs behind it, but only {epochs} are asked for; "
            "raise epochs or train from the start"
        )
    processes.on_rank_zero(partial(_restore, state, record))
    if found not in (None, record.last):
        processes.on_rank_zero(partial(state.save, record.last))


def _choose(record: RunRecord) -> Path | None:
    """Return the last checkpoint that is whole; where none is, the last, whose reader says what is wrong."""
    there = record.resumable
    if not there:
        return None
    found = next(filter(checkpoint.is_whole, there), there[0])
    if found != record.last:
        reason = "is missing"
        if record.last.exists():  # out of the way: it must not be kept as the previous one
            reason = "is damaged, and now called damaged.pt"
            record.last.replace(record.last.with_name("damaged.pt"))
        warn(f"the checkpoint {record.last} {reason}; resuming from {found.name}", SvdistillWarning, stacklevel=2)
    return found


def _restore(state: RunState, record: RunRecord) -> None:
    """Let the metrics be those of the epochs that are done."""
    if state.lines is None:
        state.lines = record.metrics.rewind(state.epoch)
    elif record.metrics.restore(state.lines):
        warn(
            f"the metrics of {record.path} did not agree with the checkpoint and were restored from it",
            SvdistillWarning,
            stacklevel=2,
        )


def _settle(record: RunRecord) -> None:
    """At the end, the last checkpoint but one is kept only where the last turns out damaged."""
    if checkpoint.is_whole(record.last):
        record.previous.unlink(missing_ok=True)
