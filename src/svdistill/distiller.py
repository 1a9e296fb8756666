"""A student with its frozen teacher: images in, logits and the transfer loss out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from svdistill.errors import RecipeError, ShapeError
from svdistill.nets import Taps

READS = ("maps", "logits")


class TransferLoss(Protocol):
    """What a loss must offer to be used here; every class of ``svdistill.losses`` does."""

    @property
    def reads(self) -> str:
        """``maps``: student and teacher are sequences of feature maps; ``logits``: both are (B, classes)."""

    def measure(self, student: Any, teacher: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its health, 0-dim tensors; the health carries no gradient."""


class DistillOutput(NamedTuple):
    """What one pass gives.

    Attributes:
        logits: of the student, (B, classes).
        transfer: the transfer loss, 0-dim; None without a teacher and in eval mode.
        health: figures of the transfer loss, 0-dim tensors without gradient; {} where there is none.
    """

    logits: Tensor
    transfer: Tensor | None
    health: dict[str, Tensor]


class Distiller(nn.Module):
    """Runs a student, and in train mode its frozen teacher, and compares them.

    The teacher is a guest: it moves along with ``to()``, but is no submodule, so it is never in ``state_dict()``,
    ``parameters()`` or train mode. ``distiller.student`` is the student alone, as it was given.

    Args:
        student: the network to train; images (B, C, H, W) to logits (B, classes).
        teacher: a trained network for the same images; it is put in eval mode. None trains the student alone.
        loss: the transfer loss; see :class:`TransferLoss`. With a teacher, and only then.
        student_taps: dotted names of the student's submodules whose outputs a loss that reads maps compares.
        teacher_taps: the teacher's, paired with the student's in order; not used by a loss that reads logits.

    Raises:
        RecipeError: a teacher without a loss or the reverse, or an unknown tap.
        ShapeError: the taps are of different number.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        loss: TransferLoss | None = None,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if (teacher is None) != (loss is None):
            given, lacks = ("loss", "teacher") if teacher is None else ("teacher", "loss")
            raise RecipeError(f"a {given} came without a {lacks}; give both, or neither to train the student alone")
        if loss is not None and loss.reads not in READS:
            raise RecipeError(f"{type(loss).__name__}.reads is {loss.reads!r}, expected one of {', '.join(READS)}")
        self.student = student
        self.loss: TransferLoss | None = loss
        # In a tuple nn.Module does not see it, so it is in no state_dict, no parameters() and no train().
        self._teacher = (teacher.eval(),) if teacher is not None else ()
        self._student_taps: tuple[str, ...] = ()
        self._teacher_taps: tuple[str, ...] = ()
        if loss is not None and teacher is not None and loss.reads == "maps":
            self._student_taps = _checked_taps(student, student_taps)
            self._teacher_taps = _checked_taps(teacher, teacher_taps)
            if len(self._student_taps) != len(self._teacher_taps):
                raise ShapeError(
                    f"{len(self._student_taps)} student taps came with {len(self._teacher_taps)} teacher taps; "
                    "taps are compared in pairs, so name equally many"
                )

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, or None."""
        return self._teacher[0] if self._teacher else None

    def forward(self, images: Tensor) -> DistillOutput:
        """Run the student, and in train mode the teacher, on the same images.

        Args:
            images: (B, C, H, W).

        Returns:
            The student's logits, the transfer loss and its health; see :class:`DistillOutput`.

        Raises:
            ShapeError: a tap did not run or gave no tensor, or the loss cannot compare what came.
        """
        if not self.training or self.teacher is None or self.loss is None:
            return DistillOutput(self.student(images), None, {})
        logits, student_maps = _run(self.student, self._student_taps, images)
        self.teacher.eval()  # whoever else holds it may have put it in train mode
        with torch.no_grad():
            teacher_logits, teacher_maps = _run(self.teacher, self._teacher_taps, images)
        if self.loss.reads == "logits":
            transfer, health = self.loss.measure(logits, teacher_logits)
        else:
            transfer, health = self.loss.measure(student_maps, teacher_maps)
        return DistillOutput(logits, transfer, health)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take the teacher along whenever the student is moved or cast."""
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self


def _checked_taps(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    with Taps(model, names) as taps:
        return taps.names


def _run(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits and the maps at the taps; hooks are there for this one pass only, so none are left behind."""
    if not names:
        return model(images), []
    with Taps(model, names) as taps:
        return model(images), taps.collect()
