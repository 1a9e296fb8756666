"""A step becomes one CUDA graph: warmed up without a trace, captured once, replayed ever after."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from svdistill.errors import TrainingError, one_line

# The first runs differ on the host: momentum is made, kernels are chosen and compiled.
_WARM_UPS = 3

Step = Callable[[], None]


class CaptureError(TrainingError):
    """A step cannot be captured; the message says what stands in the way."""


def record(step: Step, *, device: torch.device, untouched: Callable[[], Callable[[], None]]) -> Step:
    """Capture a step as a CUDA graph; elsewhere do all the same but for the graph.

    Args:
        step: reads and writes memory that stays where it is, and never waits for the device.
        device: where it computes.
        untouched: notes the state of everything that the step changes, and returns what puts it back.

    Returns:
        Replays the step; on other devices than CUDA the step itself. Nothing has changed, random numbers included.

    Raises:
        CaptureError: the step waits for the host, or does what a graph cannot hold; then, too, nothing has changed.
    """
    put_back = untouched()
    try:
        if device.type != "cuda":
            step()
            return step
        with torch.cuda.device(device):
            _warm_up(step)
            return _captured(step)
    finally:
        put_back()


def _warm_up(step: Step) -> None:
    """Run a step a few times on a stream of its own, the last time with every wait for the device an error."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _unwarned():
        for _ in range(_WARM_UPS - 1):
            step()
        with _waiting_is_an_error():
            step()
    torch.cuda.current_stream().wait_stream(stream)


def _captured(step: Step) -> Step:
    graph = torch.cuda.CUDAGraph()
    # What Python collected while capturing might free memory of CUDA's, which ends the capture.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        # The outer context leaves the stream of a capture that fails, which torch's own does not.
        with _refusals(), torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            step()
    finally:
        if collecting:
            gc.enable()
    return graph.replay


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch does not notice all waits: those that are left end the capture
        torch.cuda.set_sync_debug_mode("error")
    try:
        with _refusals():
            yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except TrainingError:
        raise
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise CaptureError(f"something in it cannot be captured ({one_line(error)})") from error


@contextmanager
def _unwarned() -> Iterator[None]:
    """Pass over the warning that an optimizer made for graphs runs without one: a warm-up does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")
        yield
