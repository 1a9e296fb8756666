"""What the processes of a run tell each other: gradients, figures, decisions and errors."""

import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is documented, but not exported by name

from svdistill.data import Share
from svdistill.errors import DataError, SvdistillError, TrainingError
from svdistill.ranks import find_ranks
from svdistill.training.engine import Engine

T = TypeVar("T")
Gradients = tuple[Tensor | None, ...]

_GONE = (
    "another process of this run has ended, or no longer answers ({reason}); call the same command again, it goes on "
    "after the last checkpoint"
)
_REASON_LENGTH = 200


class Processes:
    """The processes that make one run together; where there is one, everything is done at once and nothing is sent.

    All of them must call the same methods in the same order. A process that has ended makes the others raise
    TrainingError in whichever method they are.

    Args:
        engine: the engine, which has connected them.

    Attributes:
        rank: the number of this process, from 0.
        world: how many there are.
    """

    def __init__(self, engine: Engine) -> None:
        self.rank = engine.global_rank
        self.world = engine.world_size
        self._local_rank = engine.local_rank

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows how far the run is."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of every batch that this process works on."""
        return Share(self.rank, self.world)

    def lead(self, work: Callable[[], T]) -> T:
        """Let the first process do something, and tell the others what came of it.

        Args:
            work: done by the first process alone; returns plain values.

        Returns:
            What it returned, in every process.

        Raises:
            Exception: what it raised, in every process; see :meth:`together`.
        """
        if self.world == 1:
            return work()
        if self.first:
            with _sign_of_life():
                outcome, error = _attempt(work)
            _tell(_DONE)
            with _peers():
                dist.broadcast_object_list(outcome, src=0)
            if error is not None:
                raise error
            return cast(T, outcome[0])
        while _tell(_BUSY) != _DONE:
            pass
        with _peers():
            dist.broadcast_object_list(told := [None, None], src=0)
        return cast(T, _opened(told))

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process; where it fails in one, it fails in all.

        Args:
            work: returns anything.

        Returns:
            What it returned here.

        Raises:
            Exception: what it raised here, else what it raised in the first process where it did: an error of
                svdistill as it is, anything else as TrainingError.
        """
        if self.world == 1:
            return work()
        (result, told), error = _attempt(work)
        everybody: list[Exception | None] = [None] * self.world
        with _peers():
            dist.all_gather_object(everybody, told)
        if error is not None:
            raise error
        for other in everybody:
            if other is not None:
                raise other
        return cast(T, result)

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do something in the first process, then in the first of each machine, then in the others.

        So what is made once, such as a download, is found there by those that come later.

        Args:
            work: as for :meth:`together`.

        Returns:
            What it returned here.

        Raises:
            Exception: see :meth:`together`.
        """
        own = 0 if self.first else 1 if self._local_rank == 0 else 2
        if self.world == 1:
            return work()
        results: list[T] = []
        if own == 0:
            self.lead(lambda: results.append(work()))
        else:
            self.lead(_nothing)
        for turn in (1, 2):
            self.together(lambda mine=turn == own: results.append(work()) if mine else None)  # type: ignore[misc]
        return results[0]

    def same(self, value: object, *, what: str) -> None:
        """Make sure that all processes have the same, for instance images, each from a disk of its own.

        Args:
            value: plain values.
            what: what it stands for, in the plural.

        Raises:
            DataError: a process has another than the first.
        """
        if self.world == 1:
            return
        everybody: list[Any] = [None] * self.world
        with _peers():
            dist.all_gather_object(everybody, (socket.gethostname(), value))
        for rank, (machine, other) in enumerate(everybody):
            if other != everybody[0][1]:
                raise DataError(
                    f"process {rank} on {machine} has other {what} than process 0 on {everybody[0][0]}; give all the "
                    "same"
                )

    def spread(self, model: nn.Module) -> None:
        """Give every process the parameters and buffers of the first."""
        if self.world > 1:
            with _peers():
                for value in model.state_dict().values():
                    dist.broadcast(value, src=0)

    def average_buffers(self, model: nn.Module) -> None:
        """Replace every floating buffer, such as batch norm's running statistics, by its mean over the processes."""
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        if self.world == 1 or not buffers:
            return
        flat = torch.cat([b.reshape(-1) for b in buffers]) / self.world
        total(flat)
        for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def vary_random_numbers(self, base: int, *counts: int) -> None:
        """Give every process but the first random numbers of its own, so that no two drop out the same units.

        Args:
            base: the run's seed.
            counts: where the run is, so that it does not draw the same ones again and again.
        """
        if not self.first:
            torch.manual_seed(hash((base, self.rank, *counts)) % 2**63)  # of whole numbers: the same everywhere


class Sum:
    """Sums gradients and figures of a step over the processes, in one flat reduction.

    Which gradients there are is agreed upon in the first step and remembered, so a new one is needed for a step with
    other losses.

    Args:
        processes: between which.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._agreed: tuple[bool, ...] | None = None

    def __call__(
        self, gradients: Sequence[Gradients], figures: Mapping[str, Tensor]
    ) -> tuple[list[Gradients], dict[str, Tensor]]:
        """Sum over the processes.

        Args:
            gradients: as many groups of gradients as one likes, the same in each process; None where a loss does not
                reach a parameter.
            figures: 0-dim tensors on the same device, the same names in each process.

        Returns:
            Both, summed; the same bit for bit in every process.

        Raises:
            TrainingError: a gradient or figure is there in some processes and not in others, or a process has ended.
        """
        if self._processes.world == 1:
            return list(gradients), dict(figures)
        flat = [g for group in gradients for g in group]
        self._agree(tuple(g is not None for g in flat), tuple(figures))
        pieces = [g.reshape(-1) for g in flat if g is not None]
        numbers = torch.stack(list(figures.values())).float()
        buffer = torch.cat([*pieces, numbers])
        total(buffer)
        *parts, numbers = buffer.split([*(len(piece) for piece in pieces), len(numbers)])
        summed = iter(parts)
        done = [next(summed).view_as(g).to(g.dtype) if g is not None else None for g in flat]
        sizes = [len(group) for group in gradients]
        groups = [tuple(done[sum(sizes[:i]) : sum(sizes[: i + 1])]) for i in range(len(sizes))]
        return groups, dict(zip(figures, numbers.unbind(), strict=True))

    def _agree(self, there: tuple[bool, ...], names: tuple[str, ...]) -> None:
        if self._agreed is None:
            everybody: list[Any] = [None] * self._processes.world
            with _peers():
                dist.all_gather_object(everybody, (there, names))
            if any(other != (there, names) for other in everybody):
                raise TrainingError("the processes have gradients or figures of different losses; start them alike")
            self._agreed = there
        if there != self._agreed:
            raise TrainingError(
                f"process {self._processes.rank} has gradients of other parameters than before; with several processes "
                "a loss must reach the same ones in every step"
            )


def total(value: Tensor) -> None:
    """Replace a tensor, in every process, by its sum over the processes.

    Args:
        value: of the same shape and dtype in each.

    Raises:
        TrainingError: a process has ended.
    """
    with _peers():
        dist.all_reduce(value)


def leave() -> None:
    """Close the connection to the other processes, at the end of a program whose work is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def speaks_first() -> bool:
    """Whether nobody else among the processes of this run has reported its error yet; whoever asks, reports.

    All of them fail when one does, some because of the same mistake and some because the others are gone. The first
    knows best. Before they are connected, the first process of each machine reports.
    """
    ranks = find_ranks()
    if ranks.world == 1:
        return True
    hosted = ranks.launcher == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not hosted and not dist.is_initialized():
        return ranks.local_rank == 0
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return int(store.add(f"svdistill/reported/{attempt}", 1)) == 1
    except (KeyError, ValueError, RuntimeError):  # whoever kept the list is gone too: better twice than not at all
        return True


def _attempt(work: Callable[[], T]) -> tuple[list[Any], Exception | None]:
    """Return what is to be sent to the others, the result and the error, and the error as it is."""
    try:
        return [work(), None], None
    except Exception as error:
        return [None, _portable(error)], error


def _portable(error: Exception) -> Exception:
    """Return an error that the others can raise; where it is not one of ours, they must be told where it was."""
    if isinstance(error, SvdistillError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return TrainingError(str(error))
        return error
    text = " ".join(str(error).split())
    return TrainingError(f"process {find_ranks().rank} on {socket.gethostname()}: {type(error).__name__}: {text}")


def _opened(outcome: list[Any]) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result


def _nothing() -> None:
    pass


_BUSY, _DONE = 0, 1
_SIGN_OF_LIFE_SECONDS = 20.0


def _tell(word: int) -> int:
    """Give all processes the first one's word; the others' own counts for nothing."""
    value = torch.tensor([word])
    with _peers():
        dist.broadcast(value, src=0)
    return int(value)


@contextmanager
def _sign_of_life() -> Iterator[None]:
    """Tell the others now and then that this process is at work, so that they wait for as long as it takes."""
    done = threading.Event()

    def tell() -> None:
        with suppress(TrainingError):  # whoever has gone is missed when the work is done
            while not done.wait(_SIGN_OF_LIFE_SECONDS):
                _tell(_BUSY)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _peers() -> Iterator[None]:
    """Say in one line what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(_GONE.format(reason=_reason(error))) from error


def _reason(error: RuntimeError) -> str:
    """Return what the library says, in one line without its own place in its source.

    It is not always a process that has ended: between machines a wrong network looks the same from here.
    """
    text = re.sub(r"^\[[^\]]*:\d+\]\s*", "", " ".join(str(error).split()))
    text = text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 1]}…"
    return text.rstrip(".") or type(error).__name__
