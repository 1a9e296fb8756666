"""What the processes of a run tell each other: decisions, errors and weights; for sums see reduce.py."""

import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is documented, but not exported by name

from svdistill.data import Shard
from svdistill.errors import DataError, SvdistillError, TrainingError, one_line
from svdistill.ranks import find_ranks
from svdistill.training.engine import Engine

T = TypeVar("T")

_GONE = (
    "another process of this run has ended, or no longer answers ({reason}); call the same command again, it resumes "
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
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes files and shows how far the run is."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The part of every batch that this process works on."""
        return Shard(self.rank, self.world)

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Do something on rank zero alone, and broadcast what came of it.

        Args:
            work: returns plain values.

        Returns:
            What it returned, on every rank.

        Raises:
            Exception: what it raised, on every rank; see :meth:`on_all_ranks`.
        """
        if self.world == 1:
            return work()
        if self.is_rank_zero:
            with _heartbeat():
                outcome, error = _attempt(work)
            _broadcast_word(_DONE)
            with connection_errors():
                dist.broadcast_object_list(outcome, src=0)
            if error is not None:
                raise error
            return cast(T, outcome[0])
        while _broadcast_word(_BUSY) != _DONE:
            pass
        with connection_errors():
            dist.broadcast_object_list(told := [None, None], src=0)
        return cast(T, _opened(told))

    def on_all_ranks(self, work: Callable[[], T]) -> T:
        """Do something on every rank; where it fails on one, it fails on all.

        Args:
            work: returns anything.

        Returns:
            What it returned here.

        Raises:
            Exception: what it raised here, else what it raised on the lowest rank where it did: an error of svdistill
                as it is, anything else as TrainingError.
        """
        if self.world == 1:
            return work()
        (result, told), error = _attempt(work)
        everybody: list[Exception | None] = [None] * self.world
        with connection_errors():
            dist.all_gather_object(everybody, told)
        if error is not None:
            raise error
        for other in everybody:
            if other is not None:
                raise other
        return cast(T, result)

    def rank_zero_first(self, work: Callable[[], T]) -> T:
        """Do something on rank zero, then in the first process of each machine, then in the others.

        What is made once, such as a download, is then found by those that come later.

        Args:
            work: returns anything.

        Returns:
            What it returned here.

        Raises:
            Exception: see :meth:`on_all_ranks`.
        """
        own = 0 if self.is_rank_zero else 1 if self._local_rank == 0 else 2
        if self.world == 1:
            return work()
        results: list[T] = []
        if own == 0:
            self.on_rank_zero(lambda: results.append(work()))
        else:
            self.on_rank_zero(_nothing)
        for turn in (1, 2):
            self.on_all_ranks(lambda mine=turn == own: results.append(work()) if mine else None)  # type: ignore[misc]
        return results[0]

    def check_equal(self, value: object, *, what: str) -> None:
        """Make sure that all ranks have the same value, for instance the same images, each from a disk of its own.

        Args:
            value: plain values.
            what: what it stands for, in the plural.

        Raises:
            DataError: a rank has another value than rank zero.
        """
        if self.world == 1:
            return
        everybody: list[Any] = [None] * self.world
        with connection_errors():
            dist.all_gather_object(everybody, (socket.gethostname(), value))
        for rank, (machine, other) in enumerate(everybody):
            if other != everybody[0][1]:
                raise DataError(
                    f"process {rank} on {machine} has other {what} than process 0 on {everybody[0][0]}; give all the "
                    "same"
                )

    def broadcast_state(self, model: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank zero."""
        if self.world > 1:
            with connection_errors():
                for value in model.state_dict().values():
                    dist.broadcast(value, src=0)

    def vary_random_numbers(self, base: int, *counts: int) -> None:
        """Give every rank but zero random numbers of its own, so that no two drop out the same units.

        Args:
            base: the run's seed.
            counts: where the run is, so that it does not draw the same ones again and again.
        """
        if not self.is_rank_zero:
            torch.manual_seed(hash((base, self.rank, *counts)) % 2**63)  # of whole numbers: the same everywhere


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn a broken connection into a TrainingError that says in one line what it means."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(_GONE.format(reason=_reason(error))) from error


def _reason(error: RuntimeError) -> str:
    """Return what the library says, in one line, without the position in its source.

    It is not always a process that has ended: between machines a wrong network looks the same from here.
    """
    text = re.sub(r"^\[[^\]]*:\d+\]\s*", "", one_line(error))
    text = text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 1]}…"
    return text.rstrip(".") or type(error).__name__


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
    text = one_line(error)
    return TrainingError(f"process {find_ranks().rank} on {socket.gethostname()}: {type(error).__name__}: {text}")


def _opened(outcome: list[Any]) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result


def _nothing() -> None:
    pass


_BUSY, _DONE = 0, 1
_HEARTBEAT_SECONDS = 20.0


def _broadcast_word(word: int) -> int:
    """Give all ranks the word of rank zero; what the others pass counts for nothing."""
    value = torch.tensor([word])
    with connection_errors():
        dist.broadcast(value, src=0)
    return int(value)


@contextmanager
def _heartbeat() -> Iterator[None]:
    """Tell the other ranks now and then that this one is at work, so that they wait for as long as it takes."""
    done = threading.Event()

    def beat() -> None:
        with suppress(TrainingError):  # whoever has gone is missed when the work is done
            while not done.wait(_HEARTBEAT_SECONDS):
                _broadcast_word(_BUSY)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
