"""The training loop: an epoch is forward, loss, backward, step; everything else is around it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import UNLABELLED, Batch, Batches, ImageSource, Mixed
from svdistill.distiller import Distiller, DistillOutput
from svdistill.errors import CheckpointError, RecipeError, ShapeError
from svdistill.gradients import TransferHealth, combine
from svdistill.records import RunRecord
from svdistill.training.engine import Engine
from svdistill.training.evaluate import evaluate
from svdistill.training.metrics import sums
from svdistill.training.objective import Objective, Stage, locate
from svdistill.training.optimizers import add_main_decay, set_learning_rate, step_decay, trained
from svdistill.training.processes import Gradients, Processes, Sum
from svdistill.training.progress import Progress, Silent
from svdistill.training.state import RunState, Watch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


DEFAULT = Objective()


class StepResult(NamedTuple):
    """What one step gives, all on the device, without gradient; of all its images, wherever they were worked on.

    Attributes:
        figures: see :func:`svdistill.training.metrics.sums`.
        images: how many images it had.
    """

    figures: dict[str, Tensor]
    images: int

    @property
    def main(self) -> Tensor:
        """The main loss, 0-dim, without its weight."""
        return self.figures["loss"]

    @property
    def transfer(self) -> Tensor | None:
        """The sum of the transfer losses with their weights, 0-dim; None where none takes part."""
        return self.figures.get("transfer")

    @property
    def health(self) -> dict[str, Tensor]:
        """The figures of the transfer losses: ``set_aside`` is a number of samples, the others are means."""
        means = {n: v / self.figures[f"{n} weight"] for n, v in self.figures.items() if f"{n} weight" in self.figures}
        aside = {name: value for name, value in self.figures.items() if name == "set_aside"}
        return means | aside


class _Part(NamedTuple):
    """What one part of a step's images contributes: gradients of main and transfer losses, figures."""

    main: Gradients
    transfer: Gradients
    figures: dict[str, Tensor]


def step(
    engine: Engine,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    objective: Objective = DEFAULT,
    health: TransferHealth | None = None,
    indices: Tensor | None = None,
    views: Tensor | None = None,
    accumulate: int = 1,
    across: Sum | None = None,
) -> StepResult:
    """Do one step on one batch: main and transfer task together (METHOD, section 3); nothing waits for the device.

    The student's parameters get both gradients combined. What learns beside the student (adapters, a loss's own
    regressor) is reached by transfer losses alone, so no main gradient can bound its own; where the student's transfer
    gradient is bounded, its norm is instead kept at or below that of the student's combined gradient.

    How the two are combined is no linear function of them, so it is defined on the whole batch: both gradients are
    first summed over the parts that the batch is worked on in, which are several processes, or several passes in one,
    and then combined, once. Batch norm, and a loss that compares images with each other, see the images of their part
    alone; but for them the parts change nothing beyond rounding.

    Args:
        engine: gives the precision, and the number of processes.
        distiller: student and teacher, in train mode, on the device.
        optimizer: of the distiller's parameters; those that it holds learn, and its ``main_decay`` joins the main loss.
        images: (B, C, H, W), standardized, on the device; this process's share of the batch.
        labels: (B,), int64; −1 for an image without a label, from which the transfer task alone learns. The parts must
            have equally many labelled ones.
        epoch: of the stage, from 0; see :func:`svdistill.gradients.combine`.
        objective: the losses that take part, their weights and how they share the step.
        health: where to add what became of the transfer gradient.
        indices: (B,), which images of the training set these are, for a teacher whose knowledge is stored.
        views: (B,), which of their fixed warps.
        accumulate: work on every so-manieth image at a time, which needs less memory.
        across: sums over the processes, and remembers what is to be summed; None makes one for this step alone.

    Returns:
        The losses and figures of this step, those of all processes.

    Raises:
        ShapeError: the images cannot be divided evenly.
        TrainingError: another process has ended.
    """
    if len(labels) % accumulate:
        raise ShapeError(f"{len(labels)} images cannot be worked on in {accumulate} equal parts")
    across = across or Sum(Processes(engine))
    parts = accumulate * engine.world_size
    total: _Part | None = None
    for i in range(accumulate):
        own = slice(i, None, accumulate)  # so that labelled and unlabelled ones are spread over the parts
        numbers = {"indices": None if indices is None else indices[own], "views": None if views is None else views[own]}
        part = _part(engine, distiller, optimizer, images[own], labels[own], objective, parts=parts, **numbers)
        total = part if total is None else _plus(total, part)
    assert total is not None
    (g_main, g_transfer), figures = across([total.main, total.transfer], total.figures)
    gradients = _share(distiller, optimizer, g_main, g_transfer, epoch=epoch, objective=objective, health=health)

    parameters = trained(optimizer)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if objective.max_norm is not None:
        nn.utils.clip_grad_norm_(parameters, objective.max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(figures, len(labels) * engine.world_size)


def _part(
    engine: Engine,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    objective: Objective,
    *,
    parts: int,
    indices: Tensor | None,
    views: Tensor | None,
) -> _Part:
    """Work on one of so many parts of a batch, forward and backward."""
    parameters = trained(optimizer)
    with engine.autocast():
        output: DistillOutput = distiller(images, only=objective.names, indices=indices, views=views)
        main = F.cross_entropy(output.logits, labels, ignore_index=UNLABELLED)
    if parts > 1:  # a mean of the batch is the mean of the parts' means, a sum their sum
        main = main / parts
    weighted = {
        name: term * (objective.weight(name) / (1 if name in distiller.sums else parts))
        for name, term in output.terms.items()
    }
    beside = [weighted.pop(name) for name in objective.beside if name in weighted]
    transfer = torch.stack(list(weighted.values())).sum() if weighted else None

    goal = sum(beside, start=main * objective.main)
    g_main: Gradients = (None,) * len(parameters)
    if objective.main > 0 or beside:
        g_main = _gradients(goal, parameters, keep_graph=transfer is not None)
    g_transfer: Gradients = (None,) * len(parameters)
    if transfer is not None:
        g_transfer = _gradients(transfer, parameters)
    total = None if not output.terms else sum([*beside, *weighted.values()], start=main.new_zeros(()))
    figures = sums(main=main, transfer=total, health=output.health, logits=output.logits, labels=labels)
    return _Part(g_main, g_transfer, figures)


@torch.no_grad()
def _plus(first: _Part, second: _Part) -> _Part:
    """Add what two parts contribute."""
    main, transfer = (
        tuple(_sum(a, b) for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in ((first.main, second.main), (first.transfer, second.transfer))
    )
    figures = {name: value + second.figures[name] for name, value in first.figures.items()}
    return _Part(main, transfer, figures)


def _share(
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    g_main: Gradients,
    g_transfer: Gradients,
    *,
    epoch: int,
    objective: Objective,
    health: TransferHealth | None,
) -> Gradients:
    """Make one gradient of two for each parameter of the optimizer; its decay belongs to the main one."""
    both = list(zip(g_main, g_transfer, strict=True))
    # Decay alone is no reason to change a parameter that no loss reaches, as in a stage without the main task.
    decayed = add_main_decay(optimizer, g_main)
    g_main = tuple(g if reached != (None, None) else None for g, reached in zip(decayed, both, strict=True))
    students = _students(distiller)
    own = [id(parameter) in students for parameter in trained(optimizer)]
    clip = objective.clip if objective.has_main else "none"
    combined = combine(
        [g for g, mine in zip(g_main, own, strict=True) if mine],
        [g for g, mine in zip(g_transfer, own, strict=True) if mine],
        epoch=epoch,
        clip=clip,
        health=health,
    )
    if all(own):
        return combined
    others = [_sound(_sum(m, t)) for m, t, mine in zip(g_main, g_transfer, own, strict=True) if not mine]
    if clip != "none":
        others = _bounded(others, by=combined)
    theirs, ours = iter(combined), iter(others)
    return tuple(next(theirs) if mine else next(ours) for mine in own)


def _students(distiller: Distiller) -> set[int]:
    """Return what tells the student's own parameters from those that learn beside it."""
    return {id(parameter) for parameter in distiller.student.parameters()}


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second


def _sound(gradient: Tensor | None) -> Tensor | None:
    """Drop a gradient that is not finite, as `combine` does with the student's."""
    return None if gradient is None else torch.where(gradient.isfinite().all(), gradient, 0.0)


def _bounded(gradients: Sequence[Tensor | None], *, by: Gradients) -> list[Tensor | None]:
    """Scale gradients down together to the norm of others, where theirs is larger."""
    ours, theirs = (nn.utils.get_total_norm([g for g in some if g is not None]) for some in (gradients, by))
    factor = torch.where(ours > theirs, theirs / ours, torch.ones_like(ours))
    return [g if g is None else g * factor for g in gradients]


def fit(
    engine: Engine,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    batches: Batches | Mixed,
    test: ImageSource,
    *,
    mean: Tensor,
    std: Tensor,
    record: RunRecord,
    stages: Sequence[Stage],
    evaluate_every: int = 1,
    checkpoint_minutes: float = 10.0,
    progress: Progress | None = None,
    compile: bool = False,
    accumulate: int = 1,
) -> None:
    """Train the student to the last epoch, or go on where an interrupted run stopped.

    After each epoch: one line in ``metrics.jsonl`` and in TensorBoard, the checkpoint ``last.pt`` and, where the
    network was evaluated and its accuracy is the best so far, ``best.pt``. Where ``last.pt`` is there at the start, the
    run goes on from it; on a CPU bit for bit as if it had never stopped. At the end the student has the weights of the
    last epoch and the distiller is in eval mode.

    Where several processes do it together, each has its share of every batch and of the evaluation, and all have the
    same weights after every step. Batch norm's running statistics are averaged over them after each epoch. The first
    process alone writes and is watched; all read the checkpoint, which does not depend on their number.

    Args:
        engine: device and precision, from :func:`svdistill.training.launch`.
        distiller: student, and teacher if there is one; moved to the device.
        optimizer: of the distiller's parameters, from :func:`svdistill.training.make_optimizer`; momentum starts anew
            in each stage.
        batches: the training batches, of which this process's share is handed out.
        test: the images to evaluate on after each epoch.
        mean: (C,), of the training set, with which ``batches`` are standardized.
        std: (C,), likewise.
        record: the run's folder, made by :meth:`RunRecord.create`.
        stages: one, or several that follow each other; their epochs add up to the run's.
        evaluate_every: evaluate after every so many epochs, ≥ 1, and after the last.
        checkpoint_minutes: how often ``last.pt`` is also written inside an epoch; 0 after every step.
        progress: who is told how far the run is; of the steps only in the first process.
        compile: whether to compile the student, and on a GPU the transfer losses; the first step of each mode then
            takes much longer.
        accumulate: into how many parts each process divides its share of a batch; see :func:`step`.

    Raises:
        RecipeError: a setting is out of range, or the optimizer is not the student's.
        CheckpointError: ``last.pt`` is damaged or of another model, optimizer or data set, or cannot be written.
        TrainingError: the loss or a weight is no longer finite, or the transfer loss set most samples aside; or
            another process has ended.
    """
    processes = Processes(engine)
    base = torch.initial_seed()
    epochs = sum(stage.epochs for stage in stages)
    _check(distiller, optimizer, stages, evaluate_every=evaluate_every)
    distiller.to(engine.device)
    if compile:
        distiller.student.compile()
        if engine.device.type == "cuda":  # on a CPU it gains nothing and takes half a minute
            distiller.compile_losses()
    progress = progress or Silent()
    state = RunState(distiller, optimizer, batches, device=engine.device)
    _resume(state, record, processes, epochs=epochs)
    processes.spread(distiller)
    writer = _writer(record.tensorboard, first=state.epoch + 1) if processes.first else None
    progress.start(epochs, len(batches), state.epoch)
    try:
        while state.epoch < epochs:
            number, epoch = locate(stages, state.epoch)
            stage = stages[number]
            lr = set_learning_rate(optimizer, step_decay(epoch, milestones=stage.milestones, gamma=stage.gamma))
            if epoch == 0 and state.metrics.steps == 0:
                optimizer.state.clear()
            watch = Watch(state, record.last, progress, checkpoint_minutes=checkpoint_minutes, leads=processes.first)
            one_step = partial(step, engine, distiller, optimizer, objective=stage.objective, health=state.health)
            one_step = partial(one_step, accumulate=accumulate, across=Sum(processes))
            processes.vary_random_numbers(base, state.epoch, batches.position)
            # Where no transfer loss takes part, the main task would see the other images in its batch norm alone.
            labelled_only = isinstance(batches, Mixed) and not stage.objective.has_transfer
            distiller.train()
            for batch in batches.epoch():
                chosen = _labelled(batch) if labelled_only else batch
                images, labels = engine.to_device((chosen.images, chosen.labels))
                result = one_step(images, labels, epoch=epoch, indices=chosen.indices, views=chosen.views)
                state.metrics.add(result.figures, images=result.images)
                watch.step(images=result.images)
            processes.average_buffers(distiller)
            figures = watch.end()
            if not stage.objective.has_main:  # nothing that the transfer gradient could be compared with
                figures = {name: value for name, value in figures.items() if name not in ("ratio", "clipped")}
            done = state.epoch + 1
            if done % evaluate_every == 0 or done == epochs:
                measured = evaluate(engine, distiller.student, test, mean=mean, std=std, share=processes.share)
                figures["accuracy"] = measured["accuracy"]
            part = {"stage": number + 1} if len(stages) > 1 else {}
            metrics = {"epoch": done, **part, "seconds": watch.seconds(), "lr": lr, **figures}
            if writer is not None:
                _log(metrics, record, writer)
            best = state.next_epoch(figures.get("accuracy"))
            # last.pt comes last: what a kill before it leaves behind is written again, the same, when the run goes on.
            for path in [record.best, record.last] if best else [record.last]:
                if processes.first:
                    state.save(path)
            progress.epoch(metrics)
    finally:
        if writer is not None:
            writer.close()
        progress.finish()
    distiller.eval()


def _labelled(batch: Batch) -> Batch:
    """Leave out the images without labels."""
    there = batch.labels != UNLABELLED
    return Batch(batch.images[there], batch.labels[there], batch.indices[there.cpu()], batch.views[there.cpu()])


def _check(
    distiller: Distiller, optimizer: torch.optim.Optimizer, stages: Sequence[Stage], *, evaluate_every: int
) -> None:
    lengths = [stage.epochs for stage in stages]
    if not lengths or min(lengths) < 1:
        raise RecipeError(f"the epochs of the stages are {lengths}, expected at least 1 in each")
    if evaluate_every < 1:
        raise RecipeError(f"evaluate_every is {evaluate_every}, expected at least 1")
    known = {id(parameter) for parameter in distiller.parameters()}
    if not all(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise RecipeError("the optimizer holds parameters that are not the distiller's; make it from distiller")
    held = {id(parameter) for parameter in trained(optimizer)}
    students = _students(distiller)
    if not all(id(p) in held | students for p in distiller.parameters() if p.requires_grad):
        raise RecipeError(
            "the optimizer lacks the adapters or the parameters of a loss; call distiller.prepare first, then make it "
            "from distiller"
        )


def _resume(state: RunState, record: RunRecord, processes: Processes, *, epochs: int) -> None:
    if processes.lead(record.last.exists):
        processes.together(partial(state.load, record.last))
    if state.epoch > epochs:
        raise CheckpointError(
            f"the checkpoint {record.last} has {state.epoch} epochs behind it, but only {epochs} are asked for; "
            "raise epochs or train from the start"
        )
    processes.lead(partial(record.rewind, state.epoch))


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter], *, keep_graph: bool = False) -> Gradients:
    if not loss.requires_grad:  # the loss reaches nothing, for instance because every sample was set aside
        return (None,) * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)


def _writer(folder: Path, *, first: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # late: it takes a second, and only training needs it

    return SummaryWriter(str(folder), purge_step=first)


def _log(metrics: Mapping[str, Any], record: RunRecord, writer: "SummaryWriter") -> None:
    record.append(metrics)
    for name, value in metrics.items():
        if name != "epoch":
            writer.add_scalar(name, value, metrics["epoch"])
    writer.flush()
