"""What a transfer loss must offer: the one contract between the losses and whoever uses them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, get_args

from torch import Tensor

from svdistill.losses.maps import warn_of_layout

Reads = Literal["maps", "logits"]
READS: tuple[Reads, ...] = get_args(Reads)

Maps = Sequence[Tensor]
Settings = Mapping[str, int | float | str]

# One network's side of the comparison, `Maps` or logits (B, classes), and what a loss needs to know of the teacher.
Side = TypeVar("Side", contravariant=True)
Goal = TypeVar("Goal")


class TransferLoss(Protocol[Side, Goal]):
    """A transfer loss: what it reads, what it asks of its input, and its two halves, teacher and student.

    A class that fulfils it subclasses it and so has the defaults that are written here; a wrong or missing member is an
    error of the type checker, and nothing is asked by ``hasattr``. Type parameters: what the loss reads of a network,
    `Maps` or a tensor of logits, and its goal, which is all that it needs to know of the teacher.

    Attributes:
        reads: ``maps``: student and teacher are sequences of feature maps; ``logits``: both are (B, classes).
        equal_widths: the loss compares channel by channel, so the student's maps must have the teacher's widths; a
            distiller lifts them first.
        least_taps: how many taps it needs, without those that it leaves out.
        least_images: how many images must be worked on together for it to learn anything.
        storable: its goals are small enough to be stored, and the teacher left out of training.
        precise: names of what is not to be stored in half precision, among those that `pack` gives.
        needs_labels: it compares with the labels of the images at hand: `compare_labelled`, not `compare`.
    """

    reads: ClassVar[Reads]
    equal_widths: ClassVar[bool] = False
    least_taps: ClassVar[int] = 1
    least_images: ClassVar[int] = 1
    storable: ClassVar[bool] = True
    precise: ClassVar[frozenset[str]] = frozenset()
    needs_labels: ClassVar[bool] = False

    @property
    def sums(self) -> bool:
        """Whether the loss is a sum over the batch, not a mean."""
        return False

    @property
    def waits(self) -> str | None:
        """Why its steps must wait for the host, so that no GPU can capture them; None where nothing waits."""
        return None

    @property
    def waits_stored(self) -> str | None:
        """The same where its goals are stored, so that only the student's side is computed."""
        return self.waits

    @property
    def extracts(self) -> Settings:
        """The settings that decide what a goal consists of."""
        return {}

    def left_out(self, student_maps: Maps, teacher_maps: Maps) -> tuple[int, ...]:
        """Return the taps, from 0, at which the loss finds nothing to compare, so that it leaves them out.

        Args:
            student_maps: of any batch; only their shapes count.
            teacher_maps: as many.
        """
        return ()

    def prepare(self, student_maps: Maps, teacher_maps: Maps) -> None:
        """Make the parameters of the loss's own that fit maps like these; only their shapes and types count.

        Args:
            student_maps: of any batch; lifted where the loss needs equal widths.
            teacher_maps: as many, of the same batch.
        """
        return None

    @abstractmethod
    def extract(self, teacher: Side, student: Side) -> Goal:
        """Return all that the loss needs to know of the teacher, without gradient.

        Args:
            teacher: the teacher's side.
            student: the student's side, of which shapes and types alone matter.
        """

    @abstractmethod
    def compare(self, student: Side, goal: Goal) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the student with what `extract` has found, now or earlier.

        Args:
            student: the student's side.
            goal: what `extract` returned for the same images.

        Returns:
            The loss and its health, 0-dim tensors; the health carries no gradient.
        """

    def compare_labelled(self, student: Side, goal: Goal, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare as `compare` does, with the labels at hand; a loss that ``needs_labels`` has its own.

        Args:
            student: the student's side.
            goal: what `extract` returned for the same images.
            labels: (B,), int64, of the same images; below 0 for an image without a label.

        Returns:
            The loss and its health; see `compare`.
        """
        return self.compare(student, goal)

    def measure(self, student: Side, teacher: Side, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare student and teacher.

        Args:
            student: the student's side.
            teacher: the teacher's side.
            labels: (B,), int64, of the images, for a loss that ``needs_labels``.

        Returns:
            The loss and its health; see `compare`.
        """
        if self.reads == "maps":
            warn_of_layout(cast(Maps, student), cast(Maps, teacher))
        goal = self.extract(teacher, student)
        return self.compare(student, goal) if labels is None else self.compare_labelled(student, goal, labels)

    @abstractmethod
    def pack(self, goal: Goal) -> dict[str, Tensor]:
        """Return a goal as tensors (B, …), under the names by which they are stored."""

    @abstractmethod
    def unpack(self, stored: Mapping[str, Tensor]) -> Goal:
        """Return the goal that `pack` was given, from what has been stored of it, in float32.

        Args:
            stored: what `pack` returned, of some images.

        Raises:
            ShapeError: it is of other settings.
        """


class LogitLoss(TransferLoss[Tensor, Tensor], Protocol):
    """A transfer loss of logits: all that it needs to know of the teacher are the teacher's own."""

    reads: ClassVar[Reads] = "logits"

    def extract(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the teacher's logits (B, classes), without gradient.

        Args:
            teacher: its logits.
            student: not looked at.
        """
        return teacher.detach()

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name the goal ``logits``."""
        return {"logits": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return ``logits``."""
        return stored["logits"]


# Losses by name, of whatever they read.
Losses = Mapping[str, TransferLoss[Any, Any]]
