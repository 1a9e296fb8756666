"""A student with its frozen teacher, or with what is stored of it: images in, logits and the transfer loss out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from svdistill.errors import RecipeError, ShapeError, nearest
from svdistill.losses import Adapters
from svdistill.nets import Taps, eval_mode

READS = ("maps", "logits")


class TransferLoss(Protocol):
    """What a loss must offer to be used here; every class of ``svdistill.losses`` does.

    These are optional. ``equal_widths``, true where the loss compares channel by channel: the distiller then lifts
    the student's maps to the teacher's widths first. ``prepare(student_maps, teacher_maps)``, which makes parameters of
    the loss's own that fit these maps. ``sums``, true where the loss is a sum over the batch and not a mean. And for a
    loss whose teacher's side is small enough to be stored, see :class:`StorableLoss`.
    """

    @property
    def reads(self) -> str:
        """``maps``: student and teacher are sequences of feature maps; ``logits``: both are (B, classes)."""

    def measure(self, student: Any, teacher: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its health, 0-dim tensors; the health carries no gradient."""


@runtime_checkable
class StorableLoss(TransferLoss, Protocol):
    """A loss that needs so little of the teacher that it can be stored, and the teacher left out of training.

    ``measure(student, teacher)`` is ``compare(student, extract(teacher, student))``. Optional: ``precise``, names of
    what is not to be stored in half precision.
    """

    @property
    def extracts(self) -> Mapping[str, int | float | str]:
        """The settings that decide what `extract` gives."""

    def extract(self, teacher: Any, student: Any) -> dict[str, Tensor]:
        """Return by name all that the loss needs of the teacher, each (B, …); of the student it reads shapes alone."""

    def compare(self, student: Any, known: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and health from the student and from what `extract` has found."""


@runtime_checkable
class Knowledge(Protocol):
    """A teacher's side of the losses for known images, in place of the teacher; `svdistill.TeacherCache` is one."""

    @property
    def tap_shapes(self) -> Sequence[Sequence[int]]:
        """The shape of each of the teacher's taps, without the batch; () where no loss reads maps."""

    @property
    def losses(self) -> Collection[str]:
        """The losses whose teacher's side is there, by name."""

    def read(
        self, names: Collection[str], indices: Tensor, views: Tensor, *, device: torch.device
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """Return what `StorableLoss.extract` gave, for each of these losses, of these images (B,) and views (B,)."""


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
    """Runs a student, and in train mode its frozen teacher too, and compares them.

    The teacher is a guest: it moves along with ``to()``, but is no submodule, so it is never in ``state_dict()``,
    ``parameters()`` or train mode. ``distiller.student`` is the student alone, as it was given. What learns beside the
    student (adapters between unequal widths, a loss's own regressor) is made by `prepare` and is no part of it.

    In place of a teacher there may be its :class:`Knowledge` of the training images: then no teacher runs, and
    `forward` has to be told which images and views it is given.

    Args:
        student: the network to train; images (B, C, H, W) to logits (B, classes).
        teacher: a trained network for the same images; it is put in eval mode. Or what is stored of it. None trains the
            student alone.
        loss: the transfer loss, or several by name, which are summed; see :class:`TransferLoss`. With a teacher, and
            only then. A single one is called ``transfer``.
        student_taps: dotted names of the student's submodules whose outputs a loss that reads maps compares.
        teacher_taps: the teacher's, paired with the student's in order; not used by a loss that reads logits, nor
            where the teacher's knowledge is stored.
        student_drop_tokens: so many tokens at the front of the student's (B, N, D) taps are left out: 1 for a
            class token.
        teacher_drop_tokens: likewise of the teacher's.

    Raises:
        RecipeError: a teacher without a loss or the reverse, an unknown tap, or a loss of whose teacher's side nothing
            is stored.
        ShapeError: the taps are of different number.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Knowledge | None = None,
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
        self._teacher = (teacher.eval(),) if isinstance(teacher, nn.Module) else ()
        self._knowledge = None if isinstance(teacher, nn.Module) else teacher
        self._student_taps: tuple[str, ...] = ()
        self._teacher_taps: tuple[str, ...] = ()
        self._drop_tokens = (student_drop_tokens, teacher_drop_tokens)
        if self._knowledge is not None:
            _check_stored(losses, self._knowledge)
        if teacher is not None and any(map(_reads_maps, losses.values())):
            self._student_taps = _checked_taps(student, student_taps)
            if isinstance(teacher, nn.Module):
                self._teacher_taps = _checked_taps(teacher, teacher_taps)
            known = self._teacher_taps if self._knowledge is None else self._knowledge.tap_shapes
            if len(self._student_taps) != len(known):
                raise ShapeError(
                    f"{len(self._student_taps)} student taps came with {len(known)} teacher taps; "
                    "taps are compared in pairs, so name equally many"
                )

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher; None where there is none, or where its knowledge is stored."""
        return self._teacher[0] if self._teacher else None

    @property
    def knowledge(self) -> Knowledge | None:
        """What is stored of the teacher, or None."""
        return self._knowledge

    @property
    def sums(self) -> frozenset[str]:
        """The losses that are a sum over the batch, and no mean."""
        return frozenset(name for name, loss in self._losses.items() if getattr(loss, "sums", False))

    @property
    def precise(self) -> dict[str, frozenset[str]]:
        """For each loss the names of what is not to be stored in half precision; see :class:`StorableLoss`."""
        return {name: frozenset(getattr(loss, "precise", ())) for name, loss in self._losses.items()}

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
        mode (of a stored teacher the shapes are known); where nothing else has to learn it changes nothing. New weights
        come from torch's global generator.

        Args:
            images: (B, C, H, W), one or more, as `forward` takes them.

        Returns:
            The taps that are adapted.

        Raises:
            ShapeError: a tap did not run or gave no tensor, or the maps cannot be compared.
        """
        if not self._student_taps:
            return ()
        _, student_maps = self._look_at_student(images)
        if self._knowledge is not None:
            teacher_maps = [images.new_empty(len(images), *shape) for shape in self._knowledge.tap_shapes]
        else:
            _, teacher_maps = self._run_teacher(images, self._teacher_taps)
        lifted: Sequence[Tensor] = student_maps
        if any(map(_lifts, self._losses.values())):
            adapters = Adapters.between(student_maps, teacher_maps)
            if adapters is None or self.adapters is None or adapters.widths != self.adapters.widths:
                self.adapters = adapters
            if self.adapters is not None:
                lifted = self.adapters.to(images.device).eval()(student_maps)
                self.adapters.train(self.training)
        for loss in self._losses.values():
            if hasattr(loss, "prepare"):
                loss.prepare(lifted if _lifts(loss) else student_maps, teacher_maps)
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
            indices: (B,), int64, which images of the training set these are; for stored knowledge, a teacher that runs
                does not ask.
            views: (B,), int64, which of their fixed warps; likewise.

        Returns:
            The student's logits, the transfer losses and their health; see :class:`DistillOutput`.

        Raises:
            RecipeError: a loss of ``only`` is unknown.
            ShapeError: a tap did not run or gave no tensor, a loss cannot compare what came, or nobody says which
                images these are.
        """
        losses = self._chosen(only)
        if not self.training:
            return DistillOutput(self.student(images), None, {}, {})
        # Tapped also where no map is read: a compiled student does not notice that hooks have come or gone.
        logits, student_maps = _run(self.student, self._student_taps, images, self._drop_tokens[0])
        if not losses:
            return DistillOutput(logits, None, {}, {})
        known = {} if self._knowledge is None else self._read(losses, images, indices, views)
        teacher_logits, teacher_maps = (None, None) if known else self._teach(images, losses)
        lifted: Sequence[Tensor] | None = None
        terms: dict[str, Tensor] = {}
        health: dict[str, Tensor] = {}
        for name, loss in losses.items():
            student: Any = logits if loss.reads == "logits" else student_maps
            if self.adapters is not None and _lifts(loss):
                student = lifted = self.adapters(student_maps) if lifted is None else lifted
            if known:
                assert isinstance(loss, StorableLoss)
                terms[name], figures = loss.compare(student, known[name])
            else:
                terms[name], figures = loss.measure(student, teacher_logits if loss.reads == "logits" else teacher_maps)
            health |= figures
        return DistillOutput(logits, sum(terms.values(), start=logits.new_zeros(())), health, terms)

    def compile_losses(self, **options: Any) -> None:
        """Compile the transfer losses with `torch.compile`: their many small operations become few.

        On a GPU that is what counts, since launching them takes longer than they do; there KD-SVD reads no value on
        the host, so that it compiles as a whole. What cannot be compiled runs as it is. Only rounding differs.

        Args:
            options: of `torch.compile`, for instance ``backend``.
        """
        for loss in self._losses.values():
            for name in ("measure", "compare"):
                if hasattr(loss, name):
                    setattr(loss, name, torch.compile(getattr(loss, name), **options))

    @torch.no_grad()
    def extract(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Run the teacher, and return all that the losses need of it for these images; see :class:`StorableLoss`.

        Args:
            images: (B, C, H, W), as `forward` takes them.

        Returns:
            For each loss its tensors by name, (B, …).

        Raises:
            RecipeError: a loss needs too much to be stored, or there is no teacher to run.
            ShapeError: a tap did not run or gave no tensor, or a loss cannot compare what came.
        """
        if self.teacher is None:
            raise RecipeError("there is no teacher to run; give the network itself as teacher")
        logits, maps = self._teach(images, self._losses)
        own_logits, own_maps = self._look_at_student(images[:1])
        if self.adapters is not None:
            # Only their widths matter here.
            own_maps = [_widened(own, theirs) for own, theirs in zip(own_maps, maps, strict=True)]
        own_logits, *own_maps = (one[:1].expand(len(images), *one.shape[1:]) for one in (own_logits, *own_maps))
        known = {}
        for name, loss in self._losses.items():
            if not isinstance(loss, StorableLoss):
                raise RecipeError(f"{name} needs too much of the teacher to be stored; run the teacher")
            on_logits = loss.reads == "logits"
            known[name] = loss.extract(logits if on_logits else maps, own_logits if on_logits else own_maps)
        return known

    @torch.no_grad()
    def teacher_shapes(self, images: Tensor) -> tuple[tuple[int, ...], ...]:
        """Run the teacher on the first of some images, and return the shapes at its taps without the batch."""
        _, maps = self._run_teacher(images[:1], self._teacher_taps)
        return tuple(tuple(one.shape[1:]) for one in maps)

    def _teach(self, images: Tensor, losses: Mapping[str, TransferLoss]) -> tuple[Tensor, list[Tensor]]:
        """Return the teacher's logits, and its maps where a loss reads maps."""
        return self._run_teacher(images, self._teacher_taps if any(map(_reads_maps, losses.values())) else ())

    def _run_teacher(self, images: Tensor, taps: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        assert self.teacher is not None
        self.teacher.eval()  # whoever else holds it may have put it in train mode
        with torch.no_grad():
            return _run(self.teacher, taps, images, self._drop_tokens[1])

    def _look_at_student(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the student in eval mode and leave its mode as it was."""
        with eval_mode(self.student):
            return _run(self.student, self._student_taps, images, self._drop_tokens[0])

    def _read(
        self, losses: Collection[str], images: Tensor, indices: Tensor | None, views: Tensor | None
    ) -> Mapping[str, Mapping[str, Tensor]]:
        assert self._knowledge is not None
        if indices is None or views is None or not len(images) == len(indices) == len(views):
            raise ShapeError(
                f"the teacher's knowledge is stored by image and view: give indices= and views= of {len(images)} images"
            )
        return self._knowledge.read(losses, indices, views, device=images.device)

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


def _reads_maps(loss: TransferLoss) -> bool:
    return loss.reads == "maps"


def _lifts(loss: TransferLoss) -> bool:
    """Whether a loss compares channel by channel, so that the student's maps have to be lifted where widths differ."""
    return _reads_maps(loss) and bool(getattr(loss, "equal_widths", False))


def _widened(own: Tensor, theirs: Tensor) -> Tensor:
    """Return a map of the student's layout and size with the teacher's width."""
    wide = theirs.shape[1] if theirs.dim() == 4 else theirs.shape[-1]
    return own[:, :1].expand(-1, wide, -1, -1) if own.dim() == 4 else own[..., :1].expand(*own.shape[:-1], wide)


def _check_stored(losses: Mapping[str, TransferLoss], knowledge: Knowledge) -> None:
    for name, loss in losses.items():
        if not isinstance(loss, StorableLoss):
            raise RecipeError(
                f"{name} needs too much of the teacher to be stored; give the teacher itself, or take another loss"
            )
        if name not in knowledge.losses:
            raise RecipeError(
                f"nothing that {name!r} needs of the teacher is stored, only for {', '.join(knowledge.losses)}; "
                "store it with this loss"
            )


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
