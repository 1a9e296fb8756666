"""What a transfer loss must offer: the one contract between the losses and whoever uses them."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

Reads = Literal["maps", "logits"]
READS: tuple[Reads, ...] = ("maps", "logits")


class TransferLoss(Protocol):
    """A transfer loss: what it reads, what it asks of its input, and its two halves, teacher and student.

    A class that fulfils it subclasses it and so has the defaults that are written here; a wrong or missing member is an
    error of the type checker, and nothing is asked by ``hasattr``.

    Attributes:
        reads: ``maps``: student and teacher are sequences of feature maps; ``logits``: both are (B, classes).
        equal_widths: the loss compares channel by channel, so the student's maps must have the teacher's widths; a
            distiller lifts them first.
        needs_positions: a tap with one position in both networks, (B, D, 1, 1), has nothing that could be compared.
        least_taps: how many taps it needs.
        least_images: how many images must be worked on together for it to learn anything.
        storable: what it needs of the teacher is small enough to be stored, and the teacher left out of training.
        precise: names of what is not to be stored in half precision.
    """

    reads: ClassVar[Reads]
    equal_widths: ClassVar[bool] = False
    needs_positions: ClassVar[bool] = False
    least_taps: ClassVar[int] = 1
    least_images: ClassVar[int] = 1
    storable: ClassVar[bool] = True
    precise: ClassVar[frozenset[str]] = frozenset()

    @property
    def sums(self) -> bool:
        """Whether the loss is a sum over the batch, not a mean."""
        return False

    def measure(self, student: Any, teacher: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its health, 0-dim tensors; the health carries no gradient."""
        ...

    @property
    def extracts(self) -> Mapping[str, int | float | str]:
        """The settings that decide what a teacher's side consists of."""
        return {}
