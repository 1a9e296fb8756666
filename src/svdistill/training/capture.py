"""A step becomes one CUDA graph: warmed up without a trace, captured once, replayed ever after."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from svdistill.errors import TrainingError, one_line

# The first runs differ on the host: momentum is made, kernels are chosen and compiled.
_WARM_UPS = 3

Step = Callable[[], None]


class CaptureError(TrainingError):
    """A step waits for the host, and so cannot be captured; the message says where."""


def record(
    step: Step,
    *,
    device: torch.device,
    untouched: Callable[[], Callable[[], None]],
    rewind: Callable[[], object],
) -> Step:
    """Capture a step as a CUDA graph; elsewhere do all the same but for the graph.

    Args:
        step: reads and writes memory that stays where it is, and never waits for the device.
        device: where it computes.
        untouched: notes the state of everything that the step changes, and returns what puts it back.
        rewind: lets the next call of the step read what the first one reads; called before each warm-up.

    Returns:
        Replays the step; on other devices than CUDA the step itself. Nothing has changed, random numbers included.

    Raises:
        CaptureError: the step waits for the host; then, too, nothing has changed.
        TrainingError: the step does something else that a graph cannot hold.
    """
    put_back = untouched()
    try:
        if device.type != "cuda":
            for _ in range(_WARM_UPS):
                rewind()
                step()
            return step
        with torch.cuda.device(device):
            _warm_up(step, rewind)
            return _captured(step)
    finally:
        put_back()


def _warm_up(step: Step, rewind: Callable[[], object]) -> None:
    """Run a step a few times on a stream of its own, the last time with every wait for the device an error."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream), _unwarned():
            for number in range(_WARM_UPS):
                rewind()
                with _waiting_refused() if number == _WARM_UPS - 1 else nullcontext():
                    step()
    finally:  # also where it is given up: what it has begun must be done before it is undone
        torch.cuda.current_stream().wait_stream(stream)


def _captured(step: Step) -> Step:
    graph = torch.cuda.CUDAGraph()
    # What Python collected while capturing might free memory of CUDA's, which ends the capture.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        # The outer context leaves the stream of a capture that fails, which torch's own does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        # A failed capture leaves torch's allocator and random numbers in a state in which no step is to be trusted.
        cause = error.__context__ or error
        raise TrainingError(
            f"the step cannot be captured as a CUDA graph ({one_line(cause)}); take train.capture=off"
        ) from error
    finally:
        if collecting:
            gc.enable()
    return graph.replay


@contextmanager
def _waiting_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch does not notice all waits: those that are left end the capture
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CaptureError(f"something in it waits for the host ({one_line(error)})") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Pass over the warning that an optimizer made for graphs runs without one: a warm-up does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")
        yield
