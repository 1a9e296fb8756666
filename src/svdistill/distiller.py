"""A student with its frozen teacher, or with what is stored of it: images in, logits and the transfer loss out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from svdistill import nets
from svdistill.errors import OptionError, ShapeError, SvdistillWarning, brief, nearest
from svdistill.losses import Adapters
from svdistill.losses.protocol import READS, Losses, TransferLoss
from svdistill.nets import compile_function, eval_mode
from svdistill.nets.compiling import is_compiled
from svdistill.nets.layouts import Layouts
from svdistill.nets.reader import Reader
from svdistill.nets.taps import tap_names, warn_of_logits
from svdistill.teacher import LiveTeacher, NoTeacher, Request, Teacher


class DistillOutput(NamedTuple):
    """What one pass gives.

    Attributes:
        logits: of the student, (B, classes).
        transfer: the transfer loss, 0-dim, the sum where there are several; None without a teacher and in eval mode.
        health: figures of the transfer losses, 0-dim tensors without gradient; {} where there is none. Of a figure that
            several losses have it is the mean, of ``set_aside`` the sum.
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

    In place of a network there may be a :class:`svdistill.TeacherCache`, what is stored of one: then no teacher runs,
    and `forward` has to be told which images and views it is given.

    Args:
        student: the network to train; images (B, C, H, W) to logits (B, classes).
        teacher: a trained network for the same images, which is put in eval mode, or what is stored of one. None trains
            the student alone.
        loss: the transfer loss, or several by name, which are summed; see
            :class:`svdistill.losses.protocol.TransferLoss`. With a teacher, and only then. A single one is called
            ``transfer``.
        student_taps: dotted names of the student's submodules whose outputs a loss that reads maps compares. A network
            of which none are named is tapped as :func:`svdistill.nets.suggest` suggests; `taps` tells where.
        teacher_taps: the teacher's, paired with the student's in order; not used by a loss that reads logits, nor
            where the teacher is a stored one.
        student_drop_tokens: the number of tokens at the front of the student's (B, N, D) taps that are left out: 1 for
            a class token.
        teacher_drop_tokens: the number of tokens at the front of the teacher's taps that are left out.
        student_layout: where the channels of the student's maps are, one word for all taps or one for each:
            ``channels_first`` for (B, C, H, W) and (B, C, T), ``channels_last`` for (B, H, W, C) and (B, N, D). None =
            as the first pass shows, where it does.
        teacher_layout: where those of the teacher's maps are.
        student_output: which part of what the student returns the logits are: a key, an attribute or a position; None =
            what is called ``logits``, or the only tensor (B, classes).
        teacher_output: which part of what the teacher returns the logits are.

    Attributes:
        student: as given.
        adapters: what lifts the student's maps to the teacher's widths; None before `prepare` and where none is needed.
        losses: those losses that are modules, by name.

    Raises:
        OptionError: a teacher came without a loss or the reverse, a loss is not one or cannot be called so, a tap or
            layout is unknown, a stored teacher lacks what a loss needs, or student and teacher share what learns.
        ShapeError: the numbers of student and teacher taps differ.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | None = None,
        *,
        loss: TransferLoss[Any, Any] | Losses | None = None,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
        student_drop_tokens: int = 0,
        teacher_drop_tokens: int = 0,
        student_layout: Layouts = None,
        teacher_layout: Layouts = None,
        student_output: str | int | None = None,
        teacher_output: str | int | None = None,
    ) -> None:
        super().__init__()
        losses = _by_name(loss)
        _check_losses(losses, taught=teacher is not None)
        on_maps = any(map(_reads_maps, losses.values()))
        self.student = student
        self._frozen: list[nn.Module] = []
        self.adapters: Adapters | None = None
        self._left_out: dict[str, tuple[str, ...]] = {}
        # Those that are modules may have parameters, so they belong to the state.
        self.losses = nn.ModuleDict({name: one for name, one in losses.items() if isinstance(one, nn.Module)})
        self._losses = losses
        # Of what is stored of a teacher the taps are settled, so the student's have to be named.
        missing = on_maps and isinstance(teacher, nn.Module) and not (student_taps and teacher_taps)
        self._unnamed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        if missing and isinstance(teacher, nn.Module):
            both = ((student, student_taps), (teacher, teacher_taps))
            ours, theirs = (tap_names(network, names) if names else () for network, names in both)
            self._unnamed = ours, theirs
        self._student_taps = () if not on_maps or missing else tap_names(student, student_taps)
        self._reader = Reader(
            student,
            self._student_taps,
            drop_tokens=student_drop_tokens,
            layout=student_layout if on_maps else None,
            output=student_output,
            who="student",
        )
        if isinstance(teacher, nn.Module):
            with eval_mode(student):  # what it shares with the teacher is left in its own mode
                teacher = LiveTeacher(
                    teacher,
                    teacher_taps if on_maps and not missing else None,
                    drop_tokens=teacher_drop_tokens,
                    layout=teacher_layout if on_maps else None,
                    output=teacher_output,
                )
        self._teacher: Teacher = NoTeacher() if teacher is None else teacher
        self._teacher.check(losses)
        self._teacher.check_apart(student)
        self._compare: dict[str, Callable[..., tuple[Tensor, dict[str, Tensor]]]] = {}
        if on_maps and not missing and len(self._student_taps) != self._teacher.taps:
            raise ShapeError(
                f"{len(self._student_taps)} student taps came with {self._teacher.taps} teacher taps; "
                "taps are compared in pairs, so name equally many"
            )

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher; None where there is none, or only what is stored of one."""
        return self._teacher.network

    @property
    def source(self) -> Teacher:
        """What the losses' goals come from: a network that runs, what is stored of one, or nothing."""
        return self._teacher

    def waits(self, only: Collection[str] | None = None, *, stored: bool | None = None) -> str | None:
        """Return why a step with these losses must wait for the host, by the loss's name; None where none does.

        Args:
            only: the losses, by name; None = all.
            stored: whether their goals come from what is stored of the teacher; None = as they do now.
        """
        stored = self.teacher is None if stored is None else stored
        reasons = ((name, loss.waits_stored if stored else loss.waits) for name, loss in self._chosen(only).items())
        return next((f"{name}: {reason}" for name, reason in reasons if reason is not None), None)

    @property
    def taps(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The taps of student and teacher, named or chosen; () before they are chosen, and of a stored teacher."""
        return self._student_taps, self._teacher.tap_names

    @property
    def sums(self) -> frozenset[str]:
        """The losses that are a sum over the batch, not a mean."""
        return frozenset(name for name, loss in self._losses.items() if loss.sums)

    @property
    def needs_labels(self) -> frozenset[str]:
        """The losses that compare with the labels of the images at hand."""
        return frozenset(name for name, loss in self._losses.items() if loss.needs_labels)

    @property
    def precise(self) -> dict[str, frozenset[str]]:
        """For each loss the names of what is not to be stored in half precision."""
        return {name: loss.precise for name, loss in self._losses.items()}

    @property
    def adapted(self) -> tuple[Adapted, ...]:
        """The taps that adapters lift to the teacher's width; empty before `prepare`."""
        widths = () if self.adapters is None else self.adapters.widths
        pairs = zip(self._student_taps, widths, strict=False)
        return tuple(Adapted(tap, *width) for tap, width in pairs if width is not None)

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """The student's taps at which a loss finds nothing to compare, by the loss's name; empty before `prepare`."""
        return dict(self._left_out)

    @torch.inference_mode(False)  # what is made within it could not learn
    @torch.no_grad()
    def prepare(self, images: Tensor) -> tuple[Adapted, ...]:
        """Make what learns beside the student: adapters where widths differ, and the losses' own parameters.

        Call it once, before the optimizer is made from ``parameters()``. It runs both networks on a few images, in eval
        mode (of a stored teacher the shapes are known), and warns of a tap that gives the logits; where nothing else
        has to learn it changes nothing. New weights come from torch's global generator. A second call keeps the
        adapters if the widths are the same.

        Args:
            images: (B, C, H, W), one or more, as `forward` takes them.

        Returns:
            The taps that are adapted.

        Raises:
            ShapeError: a tap did not run or gave no tensor, the maps cannot be compared, or what is stored of the
                teacher was stored for a student with maps of other sizes.
        """
        self._choose_taps(images)
        if not self._student_taps:
            return ()
        images = images.clone() if images.is_inference() else images
        logits, student_maps = self._look_at_student(images)
        if not self._reader.suggested:
            warn_of_logits(self._student_taps, student_maps, logits, who="student")
        teacher_maps = self._teacher.maps(images)
        self._left_out = self._find_left_out(student_maps, teacher_maps)
        lifted: Sequence[Tensor] = student_maps
        if any(map(_lifts, self._losses.values())):
            adapters = Adapters.between(student_maps, teacher_maps)
            if adapters is None or self.adapters is None or adapters.widths != self.adapters.widths:
                self.adapters = adapters
            if self.adapters is not None:
                lifted = self.adapters.to(images.device).eval()(student_maps)
                self.adapters.train(self.training)
        for loss in self._losses.values():
            loss.prepare(lifted if _lifts(loss) else student_maps, teacher_maps)
        self.losses.to(images.device)
        one = self._requests(self._losses, logits[:1], [feature[:1] for feature in student_maps])
        self._teacher.check_sizes(one, images[:1])  # one image tells the shapes
        return self.adapted

    def train(self, mode: bool = True) -> Self:
        """Put the student, and what learns beside it, in train or eval mode; the teacher stays in eval mode.

        A submodule of the student that is in eval mode while the student itself is in train mode, a frozen batch norm
        for instance, stays in eval mode.

        Args:
            mode: whether to train.
        """
        self._note_frozen()
        # Whatever has been put in train mode since is no longer frozen.
        frozen = [module for module in self._frozen if not module.training]
        super().train(mode)
        for module in frozen:
            module.training = False
        if mode:
            _warn_of_statistics(self.student)
            _warn_of_sleep(self.student)
        return self

    def forward(
        self,
        images: Tensor,
        *,
        only: Collection[str] | None = None,
        indices: Tensor | None = None,
        views: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> DistillOutput:
        """Run the student, and in train mode the teacher, on the same images.

        Args:
            images: (B, C, H, W).
            only: the transfer losses to compute, by name; with none the teacher does not run; None = all.
            indices: (B,), int64, which images of the training set these are; only a stored teacher asks.
            views: (B,), int64, which of their fixed views these are; only a stored teacher asks.
            labels: (B,), int64, below 0 for an image without a label; only a loss that ``needs_labels`` asks.

        Returns:
            The student's logits, the transfer losses and their health; see :class:`DistillOutput`.

        Raises:
            OptionError: a loss of ``only`` is unknown, a loss is not told the labels that it needs, or a stored teacher
                which images and views these are.
            ShapeError: a tap did not run or gave no tensor, or a loss cannot compare what came.
        """
        losses = self._chosen(only)
        if not self.training:
            return DistillOutput(self._reader.logits(self.student, images), None, {}, {})
        _check_told(losses, labels)
        self._note_frozen()  # the student alone may be put in eval mode before `train` is called again
        self._choose_taps(images)
        # Tapped also where no map is read: a compiled student does not notice that hooks have come or gone.
        logits, maps = self._reader.run(self.student, images)
        if not losses:
            return DistillOutput(logits, None, {}, {})
        goals = self._teacher.goals(self._requests(losses, logits, maps), images, indices=indices, views=views)
        lifted: Sequence[Tensor] | None = None
        terms: dict[str, Tensor] = {}
        health: dict[str, list[Tensor]] = {}
        for name, loss in losses.items():
            side: Any = logits if loss.reads == "logits" else maps
            if self.adapters is not None and _lifts(loss):
                side = lifted = self.adapters(maps) if lifted is None else lifted
            compare, told = self._compare.get(name, _comparison(loss)), [labels] if loss.needs_labels else []
            terms[name], figures = compare(side, goals[name], *told)
            for figure, value in figures.items():
                health.setdefault(figure, []).append(value)
        told_of_all = {name: _joined(name, values) for name, values in health.items()}
        return DistillOutput(logits, sum(terms.values(), start=logits.new_zeros(())), told_of_all, terms)

    def _note_frozen(self) -> None:
        """Remember what is in eval mode while the student trains."""
        if self.student.training:
            self._frozen = [module for module in self.student.modules() if not module.training]

    def compile_losses(self, **options: Any) -> None:
        """Compile the transfer losses with `torch.compile`: their many small operations become few.

        On a GPU that is what counts, since launching them takes longer than they do; there KD-SVD reads no value on
        the host, so that it compiles as a whole. What cannot be compiled runs as it is. Only rounding differs. A copy
        of the distiller has to be told anew.

        Args:
            options: of `torch.compile`, for instance ``backend``.
        """
        self._teacher.compile(self._losses, **options)
        self._compare = {name: compile_function(_comparison(one), **options) for name, one in self._losses.items()}

    @torch.no_grad()
    def extract(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Run the teacher, and return all that the losses need of it for these images, as it is stored.

        Args:
            images: (B, C, H, W), as `forward` takes them.

        Returns:
            For each loss its tensors by name, (B, …).

        Raises:
            OptionError: a loss needs too much to be stored, or there is no teacher to run.
            ShapeError: a tap did not run or gave no tensor, or a loss cannot compare what came.
        """
        self._choose_taps(images)
        if self.teacher is None:
            raise OptionError("there is no teacher to run; give the network itself as teacher")
        for name, loss in self._losses.items():
            if not loss.storable:
                raise OptionError(f"{name} needs too much of the teacher to be stored; run the teacher")
        # One image tells the shapes of the student's maps.
        logits, maps = self._look_at_student(images[:1])
        logits, *maps = (one.expand(len(images), *one.shape[1:]) for one in (logits, *maps))
        goals = self._teacher.goals(self._requests(self._losses, logits, maps), images)
        return {name: loss.pack(goals[name]) for name, loss in self._losses.items()}

    @torch.no_grad()
    def teacher_shapes(self, images: Tensor) -> tuple[tuple[int, ...], ...]:
        """Return the shapes at the teacher's taps for such images, without the batch."""
        self._choose_taps(images)
        return tuple(tuple(one.shape[1:]) for one in self._teacher.maps(images[:1]))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `compile_losses` has compiled: in a copy it would run this distiller's own losses."""
        return {**self.__dict__, "_compare": {}}

    def _requests(self, losses: Losses, logits: Tensor, maps: Sequence[Tensor]) -> dict[str, Request]:
        """Say what the losses ask of the teacher, with the student's side in its shape: the lifting itself can wait."""
        lifted = maps
        if self.adapters is not None:
            widths = zip(maps, self.adapters.widths, strict=True)
            lifted = [one if width is None else _widened(one, width[1]) for one, width in widths]
        return {
            name: Request(loss, logits if loss.reads == "logits" else lifted if _lifts(loss) else maps)
            for name, loss in losses.items()
        }

    def _find_left_out(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
    ) -> dict[str, tuple[str, ...]]:
        reading = {name: loss for name, loss in self._losses.items() if _reads_maps(loss)}
        found = {name: loss.left_out(student_maps, teacher_maps) for name, loss in reading.items()}
        return {name: tuple(self._student_taps[tap] for tap in taps) for name, taps in found.items() if taps}

    def _choose_taps(self, images: Tensor) -> None:
        """Choose the taps that are not named, by a pass of these images through both networks."""
        if self._unnamed is None or self.teacher is None:
            return
        student, teacher = nets.suggest_pair(
            self.student, self.teacher, images, student_taps=self._unnamed[0], teacher_taps=self._unnamed[1]
        )
        self._student_taps = student.names
        self._reader.tap(self.student, student.names, drop_tokens=student.drop_tokens)
        self._teacher.tap(teacher.names, drop_tokens=teacher.drop_tokens)
        self._unnamed = None

    def _look_at_student(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the student in eval mode, uncompiled so that it can be watched, and leave its mode as it was."""
        # Asked for only where needed: it imports what takes seconds.
        eager = torch.compiler.set_stance("force_eager") if is_compiled(self.student) else nullcontext()
        with eager, eval_mode(self.student):
            return self._reader.run(self.student, images)

    def _chosen(self, only: Collection[str] | None) -> Losses:
        if only is None:
            return self._losses
        if isinstance(only, str):  # a collection too, of letters
            raise OptionError(f"only is {only!r}, expected a list of names; give only=[{only!r}]")
        for name in only:
            if name not in self._losses:
                raise OptionError(f"no transfer loss {name!r} here{nearest(name, self._losses)}")
        return {name: self._losses[name] for name in only}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take the teacher along whenever the student is moved or cast."""
        self._teacher.move(fn, recurse)
        super()._apply(fn, recurse)
        return self


def _warn_of_statistics(student: nn.Module) -> None:
    """Warn of batch norms whose parameters are frozen, but whose statistics are not."""
    norms = {name: one for name, one in student.named_modules() if isinstance(one, _NormBase) and one.training}
    fixed = [name for name, one in norms.items() if one.affine and not any(p.requires_grad for p in one.parameters())]
    fixed = [name for name in fixed if norms[name].track_running_stats]
    if fixed:
        warn(
            SvdistillWarning(
                f"the parameters of batch norm {fixed[0]!r} of the student are frozen, but its statistics follow the "
                f"images all the same ({len(fixed)} in all); call eval() on it too, and distiller.train() leaves it so"
            ),
            stacklevel=1,
        )


def _warn_of_sleep(student: nn.Module) -> None:
    """Warn of a part that learns in eval mode, as one that came so from a library within a network of one's own.

    A norm whose statistics are frozen is none, nor is a part that does the same in either mode.
    """
    for name, part in student.named_modules():
        if part.training:
            continue
        asleep = [module for module in part.modules() if not module.training]
        learns = any(p.requires_grad for one in asleep if not isinstance(one, _NormBase) for p in one.parameters(False))
        if learns and any(isinstance(one, _NormBase | _DropoutNd) for one in asleep):
            warn(
                SvdistillWarning(
                    f"{name!r} of the student learns, but is in eval mode and stays so: its dropout does nothing, and "
                    "the statistics of its batch norms do not follow the images; if that is not meant, call "
                    "student.train() before distiller.train()"
                ),
                stacklevel=1,
            )
            return


def _reads_maps(loss: TransferLoss[Any, Any]) -> bool:
    return loss.reads == "maps"


def _lifts(loss: TransferLoss[Any, Any]) -> bool:
    """Whether a loss compares channel by channel, so that the student's maps have to be lifted where widths differ."""
    return loss.reads == "maps" and loss.equal_widths


def _joined(name: str, values: Sequence[Tensor]) -> Tensor:
    """Return one figure for all losses that have it."""
    if len(values) == 1:
        return values[0]
    together = torch.stack(list(values))
    return together.sum(0) if name == "set_aside" else together.mean(0)


def _comparison(loss: TransferLoss[Any, Any]) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """How a loss compares: with the labels where it needs them."""
    return loss.compare_labelled if loss.needs_labels else loss.compare


def _check_told(losses: Losses, labels: Tensor | None) -> None:
    """Refuse to compare without labels where a loss needs them."""
    if labels is None and (lacking := next((name for name, one in losses.items() if one.needs_labels), None)):
        raise OptionError(
            f"the loss {lacking} compares with the labels of the images at hand; give them: distiller(images, "
            "labels=labels), below 0 for an image without a label"
        )


def _widened(one: Tensor, width: int) -> Tensor:
    """Return a map of the same layout and size, of another width; its values mean nothing."""
    one = one.detach()
    return one[:, :1].expand(-1, width, -1, -1) if one.dim() == 4 else one[..., :1].expand(*one.shape[:-1], width)


def _by_name(loss: TransferLoss[Any, Any] | Losses | None) -> dict[str, TransferLoss[Any, Any]]:
    if loss is None:
        return {}
    return dict(loss) if isinstance(loss, Mapping) else {"transfer": loss}


def _check_losses(losses: Losses, *, taught: bool) -> None:
    if taught != bool(losses):
        given, lacks = ("teacher", "loss") if taught else ("loss", "teacher")
        raise OptionError(f"a {given} came without a {lacks}; give both, or neither to train the student alone")
    taken = dir(nn.ModuleDict())  # torch keeps those that are modules as attributes
    for name, one in losses.items():
        if not isinstance(name, str) or not name or "." in name or name in taken:
            raise OptionError(
                f"a loss cannot be called {name!r}, a name of torch's own or no word without dots; give another one"
            )
        if isinstance(one, type):
            raise OptionError(f"the loss {name!r} is the class {one.__name__} itself; give {one.__name__}()")
        reads = getattr(one, "reads", None)
        if reads is None:
            raise OptionError(
                f"the loss {name!r} is {brief(one)}, expected a transfer loss; give one, such as "
                "svdistill.losses.SVDLoss(), or several by name, {'svd': SVDLoss(), …}"
            )
        if reads not in READS:
            raise OptionError(f"{type(one).__name__}.reads is {reads!r}, expected one of {', '.join(READS)}")
