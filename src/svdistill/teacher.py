"""A teacher, as the distiller sees it: one contract for a network that runs and for what is stored of one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from svdistill.errors import OptionError
from svdistill.losses.protocol import Losses, TransferLoss
from svdistill.nets import compile_function
from svdistill.nets.layouts import Layouts
from svdistill.nets.reader import Reader
from svdistill.nets.taps import tap_names, warn_of_logits


class Request(NamedTuple):
    """What a loss asks of the teacher for a batch.

    Attributes:
        loss: that asks.
        student: the student's side, as `TransferLoss.extract` takes it: only its shapes and types matter.
    """

    loss: TransferLoss[Any, Any]
    student: Any


class Teacher(Protocol):
    """What a distiller needs of a teacher; whoever fulfils it subclasses it."""

    @property
    def network(self) -> nn.Module | None:
        """The frozen network, where there is one that runs."""
        return None

    @property
    def stored(self) -> bool:
        """Whether its answers are read by the numbers of images and views, in place of looking at the images."""
        return False

    @property
    def taps(self) -> int:
        """How many taps of the teacher there are."""
        return 0

    @property
    def tap_names(self) -> tuple[str, ...]:
        """Their names; () where only what is stored of them is known."""
        return ()

    def check(self, losses: Losses) -> None:
        """Make sure that the teacher can serve these losses.

        Args:
            losses: by name.

        Raises:
            OptionError: one of them cannot be served.
        """
        return None

    def check_apart(self, student: nn.Module) -> None:
        """Make sure that the teacher does not change as a student learns.

        Args:
            student: the network that learns.

        Raises:
            OptionError: they share what learns, or statistics.
        """
        return None

    def tap(self, names: Sequence[str], *, drop_tokens: int) -> None:
        """Name the taps of a network of which none were named; see :meth:`svdistill.nets.reader.Reader.tap`."""
        return None

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return a map for each tap, as the teacher has them for such images; only their shapes and types count."""
        return []

    def goals(
        self,
        requests: Mapping[str, Request],
        images: Tensor,
        *,
        indices: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return the goal of each loss.

        Args:
            requests: what each loss asks, by name.
            images: (B, C, H, W).
            indices: (B,), int64, which images of the training set these are; None where that is not known.
            views: (B,), int64, which of their fixed views these are; None where that is not known.

        Raises:
            OptionError: a stored teacher is not told which images and views these are.
            ShapeError: a tap did not run or gave no tensor, or nothing is known of one of the images.
        """
        return {}

    def check_sizes(self, requests: Mapping[str, Request], images: Tensor) -> None:
        """Make sure that what is stored of the teacher, if it is, was stored for a student with maps of these sizes.

        Args:
            requests: what each loss asks, by name.
            images: (B, C, H, W).

        Raises:
            ShapeError: it was stored for another.
        """
        return None

    def bring(self, device: torch.device) -> None:
        """Bring what is stored of the teacher to a device, so that `goals` reads it there and nobody waits.

        Args:
            device: where indices and views will lie.
        """
        return None

    def check_rows(self, indices: Tensor, views: Tensor) -> None:
        """Make sure that images in these views are known, where that matters.

        Args:
            indices: int64, numbers of images, on the CPU.
            views: int64, of the same shape, numbers of their views, on the CPU.

        Raises:
            ShapeError: one of them is not.
        """
        return None

    def lacking(self, device: torch.device) -> int:
        """Return how many bytes `bring` would have to bring: none of what is there already.

        Args:
            device: where to.
        """
        return 0

    def compile(self, losses: Losses, **options: Any) -> None:
        """Compile what the teacher does for these losses, where it does anything, with these options."""
        return None

    def move(self, fn: Callable[..., Any], recurse: bool) -> None:
        """Apply a function to all tensors of the teacher's that have to be where the student's are."""
        return None


class NoTeacher(Teacher):
    """The teacher of a student that learns alone."""


class LiveTeacher(Teacher):
    """A frozen network, which runs on every batch; it is in eval mode, whatever its holder does.

    Args:
        network: a trained network; images (B, C, H, W) to logits (B, classes).
        taps: dotted names of its submodules whose outputs are compared; None where no loss reads maps.
        drop_tokens: the number of tokens at the front of its (B, N, D) taps that are left out: 1 for a class token.
        layout: of its maps, ``channels_first`` or ``channels_last``, one for all taps or one for each; None = as can be
            told, see :class:`svdistill.nets.reader.Reader`.
        output: which part of its output the logits are: a key, an attribute or a position; None = what is called
            ``logits``, or the only (B, classes).

    Raises:
        OptionError: an unknown tap, or none, or an unknown layout.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[str] | None = None,
        *,
        drop_tokens: int = 0,
        layout: Layouts = None,
        output: str | int | None = None,
    ) -> None:
        self._network = network.eval()
        names = () if taps is None else tap_names(network, taps)
        self._reader = Reader(network, names, drop_tokens=drop_tokens, layout=layout, output=output, who="teacher")
        self._shared: list[nn.Module] = []
        self._extract: dict[str, Callable[[Any, Any], Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled: in a copy it would run the losses of the other."""
        return {**self.__dict__, "_extract": {}}

    @property
    def network(self) -> nn.Module:
        """The frozen network."""
        return self._network

    @property
    def taps(self) -> int:
        """How many taps there are."""
        return len(self._reader.names)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """Their names."""
        return self._reader.names

    def check_apart(self, student: nn.Module) -> None:
        """Make sure that the network shares with a student nothing that learns, and no statistics.

        Frozen parameters may be shared, a classifier for instance.

        Args:
            student: the network that learns.

        Raises:
            OptionError: they share more than that.
        """
        learns = {id(one) for one in student.parameters() if one.requires_grad} | {id(one) for one in student.buffers()}
        ours = (*self._network.named_parameters(), *self._network.named_buffers())
        if shared := [name for name, one in ours if id(one) in learns]:
            more = f" and {len(shared) - 1} more" if shared[1:] else ""
            raise OptionError(
                f"student and teacher share {shared[0]!r}{more}, so that the teacher would change as the student "
                "learns; give copy.deepcopy(teacher)"
            )
        students = set(student.modules())
        self._shared = [module for module in self._network.modules() if module in students]

    def tap(self, names: Sequence[str], *, drop_tokens: int) -> None:
        """Name the network's taps, of which none were named before.

        Args:
            names: dotted names of its submodules.
            drop_tokens: how many tokens at the front are left out, unless that was said before.

        Raises:
            OptionError: an unknown tap.
        """
        self._reader.tap(self._network, names, drop_tokens=drop_tokens)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Run the network, and return its maps; a tap that gives the logits is warned of."""
        logits, maps = self._run(images)
        if not self._reader.suggested:
            warn_of_logits(self._reader.names, maps, logits, who="teacher")
        return maps

    def goals(
        self,
        requests: Mapping[str, Request],
        images: Tensor,
        *,
        indices: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Any]:
        """Run the network, and extract the goals from what it gives; the images need not be known.

        Args:
            requests: what each loss asks, by name.
            images: (B, C, H, W).
            indices: not looked at.
            views: not looked at.

        Raises:
            ShapeError: a tap did not run or gave no tensor, or a loss cannot compare what came.
        """
        reads_maps = any(loss.reads == "maps" for loss, _ in requests.values())
        logits, maps = self._run(images, tapped=reads_maps)
        with torch.no_grad():
            return {
                name: self._extract.get(name, loss.extract)(logits if loss.reads == "logits" else maps, student)
                for name, (loss, student) in requests.items()
            }

    def compile(self, losses: Losses, **options: Any) -> None:
        """Compile what extracts the goals, not the network.

        Args:
            losses: by name.
            options: of `torch.compile`.
        """
        self._extract = {name: compile_function(loss.extract, **options) for name, loss in losses.items()}

    def move(self, fn: Callable[..., Any], recurse: bool) -> None:
        """Apply a function to the network's parameters and buffers."""
        self._network._apply(fn, recurse)

    @torch.no_grad()
    def _run(self, images: Tensor, *, tapped: bool = True) -> tuple[Tensor, list[Tensor]]:
        modes = [module.training for module in self._shared]
        self._network.eval()  # whoever else holds it may have put it in train mode
        try:
            if tapped:
                return self._reader.run(self._network, images)
            return self._reader.logits(self._network, images), []
        finally:
            for module, training in zip(self._shared, modes, strict=True):
                module.training = training
