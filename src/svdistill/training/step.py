"""One step: a batch, the gradients of two tasks, one optimizer step. It reads straight down."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import UNLABELLED
from svdistill.distiller import Distiller, DistillOutput
from svdistill.errors import OptionError, ShapeError, TrainingError
from svdistill.gradients import TransferHealth, added, combine_all, differentiate
from svdistill.training.engine import Engine
from svdistill.training.metrics import sums
from svdistill.training.objective import Objective
from svdistill.training.optimizers import add_main_decay, check_reached, step_where, trained
from svdistill.training.processes import Processes
from svdistill.training.reduce import Gradients, Reducer, all_reduce
from svdistill.training.skips import Buffers, Skips, all_finite

DEFAULT = Objective()


class Examples(NamedTuple):
    """What one step learns from: a :class:`svdistill.data.Batch` on the device; the first two fields must be there.

    Attributes:
        images: (B, C, H, W), standardized; this process's shard of the batch.
        labels: (B,), int64; below 0 for an image without a label, from which the transfer task alone learns.
        indices: (B,), which images of the training set these are, for a stored teacher.
        views: (B,), which of their fixed views these are, for a stored teacher.
        others: (B,), int64; the label of the image that each is mixed with; None where none is.
        share: (B,), floating point; the part that the own label keeps, 0 to 1; with ``others``.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None = None
    views: Tensor | None = None
    others: Tensor | None = None
    share: Tensor | None = None

    def every(self, n: int, *, start: int) -> "Examples":
        """Return every n-th example, so that labelled and unlabelled ones are spread over the parts of a batch."""
        return Examples(*(None if field is None else field[start::n] for field in self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Learner:
    """What learns, and by what means: the same in all steps with one objective.

    Two gradients are not combined linearly, so the combination is defined on the whole batch: both gradients
    are first summed over the parts that the batch is worked on in, which are several processes, or several passes in
    one, and then combined, once. The main loss, and one that compares with labels, is the mean over the labelled images
    of all parts, however many of them a part has. Batch norm, and a loss that compares images with each other, see the
    images of their part alone; but for them the parts change nothing beyond rounding.

    Attributes:
        engine: gives the precision, and the number of processes.
        distiller: student and teacher, in train mode, on the device.
        optimizer: of the distiller's parameters; those that it holds learn, and its ``main_decay`` joins the main loss.
        accumulate: in how many passes each process works on its shard of a batch, which needs less memory.
        reducer: sums over the processes, and remembers what is to be summed; None makes one for each step alone.

    Raises:
        OptionError: the optimizer lacks the adapters, or the parameters of a loss.
    """

    engine: Engine
    distiller: Distiller
    optimizer: torch.optim.Optimizer
    accumulate: int = 1
    reducer: Reducer | None = None

    def __post_init__(self) -> None:
        check_reached(self.optimizer, self.distiller)

    @property
    def parts(self) -> int:
        """How many parts a batch is worked on in, over all processes."""
        return self.accumulate * self.engine.world_size


class StepResult(NamedTuple):
    """What one step gives, all on the device, without gradient; of all its images, wherever they were worked on.

    Attributes:
        figures: see :func:`svdistill.training.metrics.sums`.
        images: how many images it had.
        applied: whether the step was applied, 0-dim bool; it is not where the main loss or the gradient is not finite.
    """

    figures: dict[str, Tensor]
    images: int
    applied: Tensor

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


def step(
    engine: Engine,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: float | Tensor,
    objective: Objective = DEFAULT,
    health: TransferHealth | None = None,
) -> StepResult:
    """Do one step on one batch, for a loop of one's own; see :func:`take_step` for what it does.

    Args:
        engine: gives the precision, and the number of processes.
        distiller: student and teacher, in train mode, on the device; a compiled student is compiled by
            :func:`svdistill.nets.compile_module`.
        optimizer: of the distiller's parameters, from :func:`svdistill.training.make_optimizer`.
        images: (B, C, H, W), standardized, on the device; this process's shard of the batch.
        labels: (B,), int64; below 0 for an image without a label, from which the transfer task alone learns.
        epoch: from 0; see :func:`svdistill.gradients.combine`.
        objective: the losses that take part, their weights and how their gradients are combined.
        health: where to add what became of the transfer gradient.

    Returns:
        The losses and figures of this step, those of all processes.

    Raises:
        OptionError: the optimizer lacks the adapters, or the parameters of a loss.
        TrainingError: the distiller is in eval mode, or another process has ended.
    """
    learner = Learner(engine, distiller, optimizer)
    return take_step(learner, Examples(images, labels), epoch=epoch, objective=objective, health=health)


def take_step(
    learner: Learner,
    examples: Examples,
    *,
    epoch: float | Tensor,
    objective: Objective = DEFAULT,
    health: TransferHealth | None = None,
    skips: Skips | None = None,
) -> StepResult:
    """Do one step: main and transfer task together (docs/method.md, step 7); nothing waits for the device.

    The student's parameters get both gradients combined. What learns beside the student (adapters, a loss's own
    regressor) is reached by transfer losses alone, so no main gradient can bound its own; where the student's transfer
    gradient is bounded, its norm is instead kept at or below that of the student's combined gradient.

    Where the main loss or the gradient is not finite, the step is not applied: weights, what the optimizer keeps of
    them, and running statistics stay as they were.

    Args:
        learner: student, teacher and optimizer, and the parts that the batch is worked on in.
        examples: this process's shard of the batch, on the device.
        epoch: of the stage, from 0; see :func:`svdistill.gradients.combine`.
        objective: the losses that take part, their weights and how their gradients are combined.
        health: where to add what became of the transfer gradient.
        skips: where to note a step that is not applied; after too many in a row it has none applied any more.

    Returns:
        The losses and figures of this step, those of all processes.

    Raises:
        OptionError: the images are mixed, and teacher or losses are not for such images.
        ShapeError: the images cannot be divided evenly.
        TrainingError: the distiller is in eval mode, or another process has ended.
    """
    _check_mode(learner.distiller)
    if examples.others is not None:
        check_mixable(learner.distiller)
    number, passes = len(examples.labels), learner.accumulate
    if number % passes:
        raise ShapeError(
            f"{number} images cannot be worked on in {passes} equal parts; give a multiple of {passes}, or fewer parts"
        )
    buffers = Buffers(learner.distiller)
    labelled = _labelled(learner, examples.labels)
    pieces = (examples.every(passes, start=i) for i in range(passes))
    part = reduce(_added, (forward_backward(learner, one, objective, epoch=epoch, labelled=labelled) for one in pieces))
    reducer = learner.reducer or Reducer(Processes(learner.engine))
    (main, transfer), figures = reducer([part.main, part.transfer], part.figures)
    gradients = _combined(learner, main, transfer, epoch=epoch, objective=objective, health=health)

    parameters = trained(learner.optimizer)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if objective.max_norm is not None:
        nn.utils.clip_grad_norm_(parameters, objective.max_norm)
    applied = _is_sound(figures["loss"] if objective.main > 0 else None, parameters)
    if skips is not None:
        applied = skips.note(applied, loss=figures["loss"], transfer=figures.get("transfer"), indices=examples.indices)
    step_where(learner.optimizer, applied)
    buffers.restore_unless(applied)
    learner.optimizer.zero_grad()
    return StepResult(figures, number * learner.engine.world_size, applied)


def check_mixable(distiller: Distiller) -> None:
    """Make sure that mixed images can be learnt from.

    Args:
        distiller: student, teacher and losses.

    Raises:
        OptionError: what is stored of the teacher is of images that are not, or a loss compares with their labels.
    """
    if distiller.needs_labels:
        raise OptionError(
            f"images are mixed, so that they have two labels each, and the loss {min(distiller.needs_labels)} compares "
            "with one; give another loss, or batches without mixing"
        )
    if distiller.source.stored:
        raise OptionError(
            "images are mixed, and what is stored of the teacher is of images that are not; give the teacher itself, "
            "or batches without mixing"
        )


def _check_mode(distiller: Distiller) -> None:
    if distiller.training and distiller.student.training:
        return
    who = "student" if distiller.training else "distiller"
    raise TrainingError(f"the {who} is in eval mode, in which nothing is to be learnt; call distiller.train() first")


def _labelled(learner: Learner, labels: Tensor) -> Tensor | None:
    """Count the labelled images of a step in all its parts, 0-dim; None where it is worked on in one."""
    if learner.parts == 1:
        return None
    count = (labels >= 0).sum()
    if learner.engine.world_size > 1:
        all_reduce(count)
    return count


def _is_sound(loss: Tensor | None, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return whether the main loss, where it counts, and all gradients are finite, 0-dim bool."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    looked_at = [*gradients, *([] if loss is None else [loss])]
    if not looked_at:  # nothing is reached, for instance by a loss that is the same for all images
        return torch.ones((), dtype=torch.bool, device=parameters[0].device)
    return all_finite(looked_at)


class Part(NamedTuple):
    """What one part of a step's images contributes: gradients of main and transfer losses, figures."""

    main: Gradients
    transfer: Gradients
    figures: dict[str, Tensor]


def main_loss(logits: Tensor, examples: Examples, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over the images with a label, of a mixed image with both of its labels.

    Args:
        logits: (B, classes).
        examples: labels, and where images are mixed the others' and the own label's share.
        label_smoothing: how much of each label is spread evenly over all classes.

    Returns:
        0-dim; zero, with a gradient of zeros, where no image has a label.
    """
    labels, others, share = examples.labels, examples.others, examples.share
    known = labels >= 0
    if others is None or share is None:
        some = known.any()  # where there is none, any labels stand in, and count for nothing
        stand_in = torch.where(some, _marked(labels), torch.zeros_like(labels))
        return F.cross_entropy(logits, stand_in, ignore_index=UNLABELLED, label_smoothing=label_smoothing) * some
    own, other = (
        F.cross_entropy(
            logits, _marked(one), ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="none"
        )
        for one in (labels, others)
    )
    return (share * own + (1 - share) * other).sum() / known.sum().clamp_min(1)


def _marked(labels: Tensor) -> Tensor:
    """Return labels with all that are below 0 as the one number that cross-entropy passes over."""
    return torch.where(labels >= 0, labels, UNLABELLED)


def forward_backward(
    learner: Learner,
    examples: Examples,
    objective: Objective,
    *,
    epoch: float | Tensor,
    labelled: Tensor | None = None,
) -> Part:
    """Work on one part of a batch: losses, then the gradient of either task.

    Args:
        learner: student, teacher and optimizer.
        examples: of this part.
        objective: the losses that take part.
        epoch: of the stage, from 0.
        labelled: how many images of all parts have a label, 0-dim; None = as many in each as in this one.
    """
    images, labels, indices, views = examples[:4]
    distiller, parameters, parts = learner.distiller, trained(learner.optimizer), learner.parts
    with learner.engine.autocast():
        output: DistillOutput = distiller(images, only=objective.names, indices=indices, views=views, labels=labels)
        main = main_loss(output.logits, examples, label_smoothing=objective.label_smoothing)
    terms = dict(output.terms)
    if labelled is not None:  # what is a mean over labelled images counts by how many of them this part has
        count = (labels >= 0).sum() * parts
        main = main * count.to(main.dtype) / labelled.clamp_min(1)
        for name in (distiller.needs_labels & terms.keys()) - distiller.sums:
            terms[name] = terms[name] * count.to(terms[name].dtype) / labelled.clamp_min(1)
    if parts > 1:  # a mean of the batch is the mean of the parts' means, a sum their sum
        main = main / parts
    weighted = {
        name: _times(term, objective.weight(name, epoch) / (1 if name in distiller.sums else parts))
        for name, term in terms.items()
    }
    beside = [weighted.pop(name) for name in objective.beside if name in weighted]
    transfer = torch.stack(list(weighted.values())).sum() if weighted else None

    goal = sum(beside, start=main * objective.main)
    g_main: Gradients = (None,) * len(parameters)
    if objective.main > 0 or beside:
        g_main = differentiate(goal, parameters, keep_graph=transfer is not None)
    g_transfer: Gradients = (None,) * len(parameters)
    if transfer is not None:
        g_transfer = differentiate(transfer, parameters)
    total = None if not output.terms else sum([*beside, *weighted.values()], start=main.new_zeros(()))
    figures = sums(
        main=main,
        transfer=total,
        health=output.health,
        logits=output.logits,
        labels=labels,
        others=examples.others,
        share=examples.share,
    )
    return Part(g_main, g_transfer, figures)


def _times(term: Tensor, weight: float | Tensor) -> Tensor:
    """Multiply in the term's own type: an epoch on the device, and so a weight, is in float64."""
    return term * (weight.to(term.dtype) if isinstance(weight, Tensor) else weight)


@torch.no_grad()
def _added(first: Part, second: Part) -> Part:
    """Add what two parts contribute."""
    main, transfer = (
        tuple(added(a, b) for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in ((first.main, second.main), (first.transfer, second.transfer))
    )
    figures = {name: value + second.figures[name] for name, value in first.figures.items()}
    return Part(main, transfer, figures)


def _combined(
    learner: Learner,
    g_main: Gradients,
    g_transfer: Gradients,
    *,
    epoch: float | Tensor,
    objective: Objective,
    health: TransferHealth | None,
) -> Gradients:
    """Make one gradient of two for each parameter of the optimizer; its decay belongs to the main one."""
    students = {id(parameter) for parameter in learner.distiller.student.parameters()}
    # Without a main gradient only a bound of its own can hold the transfer gradient.
    clip = objective.clip if objective.has_main or objective.clip == "own_norm" else "none"
    return combine_all(
        add_main_decay(learner.optimizer, g_main, besides=g_transfer),
        g_transfer,
        beside=[id(parameter) not in students for parameter in trained(learner.optimizer)],
        epoch=epoch,
        clip=clip,
        bound=objective.bound,
        health=health,
    )
