"""A student with its frozen teacher: images in, logits and the transfer loss out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from svdistill.errors import RecipeError, ShapeError, nearest
from svdistill.losses import Adapters
from svdistill.nets import Taps

READS = ("maps", "logits")


class TransferLoss(Protocol):
    """What a loss must offer to be used here; every class of ``svdistill.losses`` does.

    Two things are optional. ``equal_widths``, true where the loss compares channel by channel: the distiller then lifts
    the student's maps to the teacher's widths first. ``prepare(student_maps, teacher_maps)``, which makes parameters of
    the loss's own that fit these maps.
    """

    @property
    def reads(self) -> str:
        """``maps``: student and teacher are sequences of feature maps; ``logits``: both are (B, classes)."""

    def measure(self, student: Any, teacher: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its health, 0-dim tensors; the health carries no gradient."""


class DistillOutput(NamedTuple):
    """What one pass gives.

    Attributes:
        logits: of the student, (B, classes).
        transfer: the transfer loss, 0-dim, the sum where there are several; None without a teacher and in eval mode.
        health: figures of the transfer losses, 0-dim tensors without gradient; {} where there is none.
        terms: each transfer loss by its name.
    """

    logits: Tensor
    transfer: Tensor | None
    health: dict[str, Tensor]
    terms: dict[str, Tensor]


class Adapted(NamedTuple):
    """A tap of the student that a learned 1×1 convolution lifts to the teacher's width.

    Attributes:
        tap: the student's tap.
        width: its number of channels.
        teacher_width: that of the teacher's tap.
    """

    tap: str
    width: int
    teacher_width: int


class Distiller(nn.Module):
    """Runs a student, and in train mode its frozen teacher, and compares them.

    The teacher is a guest: it moves along with ``to()``, but is no submodule, so it is never in ``state_dict()``,
    ``parameters()`` or train mode. ``distiller.student`` is the student alone, as it was given. What learns beside the
    student (adapters between unequal widths, a loss's own regressor) is made by `prepare` and is no part of it.

    Args:
        student: the network to train; images (B, C, H, W) to logits (B, classes).
        teacher: a trained network for the same images; it is put in eval mode. None trains the student alone.
        loss: the transfer loss, or several by name, which are summed; see :class:`TransferLoss`. With a teacher, and
            only then. A single one is called ``transfer``.
        student_taps: dotted names of the student's submodules whose outputs a loss that reads maps compares.
        teacher_taps: the teacher's, paired with the student's in order; not used by a loss that reads logits.
        student_drop_tokens: so many tokens at the front of the student's (B, N, D) taps are left out: 1 for a
            class token.
        teacher_drop_tokens: likewise of the teacher's.

    Raises:
        RecipeError: a teacher without a loss or the reverse, or an unknown tap.
        ShapeError: the taps are of different number.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        loss: TransferLoss | Mapping[str, TransferLoss] | None = None,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
        student_drop_tokens: int = 0,
        teacher_drop_tokens: int = 0,
    ) -> None:
        super().__init__()
        losses = _by_name(loss)
        if (teacher is None) != (not losses):
            given, lacks = ("loss", "teacher") if teacher is None else ("teacher", "loss")
            raise RecipeError(f"a {given} came without a {lacks}; give both, or neither to train the student alone")
        for one in losses.values():
            if one.reads not in READS:
                raise RecipeError(f"{type(one).__name__}.reads is {one.reads!r}, expected one of {', '.join(READS)}")
        self.student = student
        self.adapters: Adapters | None = None
        # Those that are modules may have parameters, so they belong to the state.
        self.losses = nn.ModuleDict({name: one for name, one in losses.items() if isinstance(one, nn.Module)})
        self._losses = losses
        # In a tuple nn.Module does not see it, so it is in no state_dict, no parameters() and no train().
        self._teacher = (teacher.eval(),) if teacher is not None else ()
        self._student_taps: tuple[str, ...] = ()
        self._teacher_taps: tuple[str, ...] = ()
        self._drop_tokens = (student_drop_tokens, teacher_drop_tokens)
        if teacher is not None and any(one.reads == "maps" for one in losses.values()):
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

    @property
    def adapted(self) -> tuple[Adapted, ...]:
        """The taps that adapters lift to the teacher's width; empty before `prepare`."""
        widths = () if self.adapters is None else self.adapters.widths
        pairs = zip(self._student_taps, widths, strict=False)
        return tuple(Adapted(tap, *width) for tap, width in pairs if width is not None)

    @torch.no_grad()
    def prepare(self, images: Tensor) -> tuple[Adapted, ...]:
        """Make what learns beside the student: adapters where widths differ, and the losses' own parameters.

        A second call keeps the adapters that are there where the widths are the same.

        Call it once, before the optimizer is made from ``parameters()``. It runs both networks on a few images, in eval
        mode; where nothing else has to learn it changes nothing. New weights come from torch's global generator.

        Args:
            images: (B, C, H, W), one or more, as `forward` takes them.

        Returns:
            The taps that are adapted.

        Raises:
            ShapeError: a tap did not run or gave no tensor, or the maps cannot be compared.
        """
        if not self._student_taps or self.teacher is None:
            return ()
        modes = [(module, module.training) for module in self.student.modules()]
        try:
            _, student_maps = _run(self.student.eval(), self._student_taps, images, self._drop_tokens[0])
        finally:
            for module, training in modes:
                module.training = training
        _, teacher_maps = _run(self.teacher.eval(), self._teacher_taps, images, self._drop_tokens[1])
        lifted: Sequence[Tensor] = student_maps
        if any(getattr(loss, "equal_widths", False) for loss in self._losses.values()):
            adapters = Adapters.between(student_maps, teacher_maps)
            if adapters is None or self.adapters is None or adapters.widths != self.adapters.widths:
                self.adapters = adapters
            if self.adapters is not None:
                lifted = self.adapters.to(images.device).eval()(student_maps)
                self.adapters.train(self.training)
        for loss in self._losses.values():
            if hasattr(loss, "prepare"):
                loss.prepare(lifted if getattr(loss, "equal_widths", False) else student_maps, teacher_maps)
        self.losses.to(images.device)
        return self.adapted

    def forward(
        self,
        images: Tensor,
        *,
        only: Collection[str] | None = None,
        indices: Tensor | None = None,
        views: Tensor | None = None,
    ) -> DistillOutput:
        """Run the student, and in train mode the teacher, on the same images.

        Args:
            images: (B, C, H, W).
            only: the transfer losses to measure, by name; none leaves the teacher out; None = all.
            indices: (B,), int64, which images of the training set these are; a live teacher does not ask.
            views: (B,), int64, which of their fixed warps; likewise.

        Returns:
            The student's logits, the transfer losses and their health; see :class:`DistillOutput`.

        Raises:
            RecipeError: a loss of ``only`` is unknown.
            ShapeError: a tap did not run or gave no tensor, or a loss cannot compare what came.
        """
        losses = self._chosen(only)
        if not self.training:
            return DistillOutput(self.student(images), None, {}, {})
        # Tapped also where no map is read: a compiled student does not notice that hooks have come or gone.
        logits, student_maps = _run(self.student, self._student_taps, images, self._drop_tokens[0])
        if self.teacher is None or not losses:
            return DistillOutput(logits, None, {}, {})
        teacher_taps = self._teacher_taps if any(loss.reads == "maps" for loss in losses.values()) else ()
        self.teacher.eval()  # whoever else holds it may have put it in train mode
        with torch.no_grad():
            teacher_logits, teacher_maps = _run(self.teacher, teacher_taps, images, self._drop_tokens[1])
        lifted: Sequence[Tensor] | None = None
        terms: dict[str, Tensor] = {}
        health: dict[str, Tensor] = {}
        for name, loss in losses.items():
            if loss.reads == "logits":
                terms[name], figures = loss.measure(logits, teacher_logits)
            elif self.adapters is not None and getattr(loss, "equal_widths", False):
                lifted = self.adapters(student_maps) if lifted is None else lifted
                terms[name], figures = loss.measure(lifted, teacher_maps)
            else:
                terms[name], figures = loss.measure(student_maps, teacher_maps)
            health |= figures
        return DistillOutput(logits, sum(terms.values(), start=logits.new_zeros(())), health, terms)

    def _chosen(self, only: Collection[str] | None) -> Mapping[str, TransferLoss]:
        if only is None:
            return self._losses
        for name in only:
            if name not in self._losses:
                raise RecipeError(f"no transfer loss {name!r} here{nearest(name, self._losses)}")
        return {name: self._losses[name] for name in only}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take the teacher along whenever the student is moved or cast."""
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self


def _checked_taps(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    with Taps(model, names) as taps:
        return taps.names


def _by_name(loss: TransferLoss | Mapping[str, TransferLoss] | None) -> dict[str, TransferLoss]:
    if loss is None:
        return {}
    return dict(loss) if isinstance(loss, Mapping) else {"transfer": loss}


def _run(model: nn.Module, names: Sequence[str], images: Tensor, drop_tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Return the logits and the maps at the taps; hooks are there for this one pass only, so none are left behind."""
    if not names:
        return model(images), []
    with Taps(model, names, drop_tokens=drop_tokens) as taps:
        return model(images), taps.collect()
