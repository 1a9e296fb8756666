"""Whether the card computes what it should: against float64 on the CPU, and captured steps against eager ones."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.sheet import Case, Clock, Sheet
from benchmarks.gpu.steps import ALONE, Buffered, Eager, Prepared, Setting, captured_name, made_up
from benchmarks.measure import target
from svdistill import losses
from svdistill.data import standardize
from svdistill.linalg.precision import full_float32
from svdistill.losses.protocol import TransferLoss
from svdistill.nets import Taps, create, default_taps

# What the gradient has to reach against float64: the median over the images with one vector, the 95th percentile with
# four.
MEDIAN_K1, LARGEST_K4 = 1e-6, 1e-3
ROUNDING = 1e-3  # captured against eager weights, relative to what was learned
NARROW = 0.5  # width of a student that needs adapters, beside the teacher's
FOLLOWED = (
    ALONE,
    "svd-eccv2018",
    "svd",
    "svd-k4",
    "svd-recommended",
    "soft-target",
    "dkd",
    "dist",
    "fitnet",
    "fsp",
    "attention",
    "relational",
    "similarity",
    "pkt",
)

Loss = TransferLoss[Any, Any]


class Method(NamedTuple):
    """A loss, as it is compared with float64.

    Attributes:
        make: the loss.
        narrow: the student is narrower than the teacher, so that adapters lift its maps.
        rank: of KD-SVD, which has targets; 0 for other losses.
    """

    make: Callable[[], Loss]
    narrow: bool = False
    rank: int = 0


METHODS: Mapping[str, Method] = {
    "KD-SVD, k = 1": Method(partial(losses.SVDLoss, reduction="sum"), rank=1),
    "KD-SVD, k = 1, published gradient": Method(partial(losses.SVDLoss, gradient="paper", reduction="sum"), rank=1),
    "KD-SVD, k = 4": Method(partial(losses.SVDLoss, rank=4, reduction="sum"), rank=4),
    "KD-SVD, teacher's basis, k = 1": Method(partial(losses.SVDLoss, basis="teacher", reduction="sum"), rank=1),
    "KD-SVD, teacher's basis, k = 4": Method(partial(losses.SVDLoss, rank=4, basis="teacher", reduction="sum"), rank=4),
    "soft targets": Method(losses.SoftTargetLoss),
    "soft targets, standardized": Method(partial(losses.SoftTargetLoss, 2.0, standardize=True)),
    "DKD": Method(losses.DKDLoss),
    "DIST": Method(losses.DISTLoss),
    "FitNets": Method(losses.FitNetLoss),
    "FSP": Method(losses.FSPLoss),
    "attention": Method(losses.AttentionLoss),
    "relational": Method(losses.RelationalLoss),
    "similarity": Method(losses.SimilarityLoss),
    "PKT": Method(losses.PKTLoss),
    "KD-SVD, k = 1, through adapters": Method(partial(losses.SVDLoss, reduction="sum"), narrow=True),
    "FSP, through adapters": Method(losses.FSPLoss, narrow=True),
}


def measure(sheet: Sheet, scale: Scale, clock: Clock) -> None:
    """Compare every loss with float64, then captured steps with eager ones; print both."""
    cases = [Case(f"{name}: float64", partial(against_float64, method, scale)) for name, method in METHODS.items()]
    cases += [Case(f"{name}: {captured_name(scale)}", partial(followed, name, scale), 5.0) for name in FOLLOWED]
    sheet.measure(cases, clock)
    table = Table("", "loss", "gradient, median", "95 %", "largest", title="Relative difference from float64")
    for name in METHODS:
        if found := sheet.results.get(f"{name}: float64"):
            card = found["card"]
            table.add_row(name, *(f"{card[key]:.1e}" for key in ("loss", "median", "95 %", "largest")))
    Console().print(table)
    table = Table("", "losses", "weights", "eager again", title=f"{captured_name(scale)} against eager steps")
    for name in FOLLOWED:
        if found := sheet.results.get(f"{name}: {captured_name(scale)}"):
            figures = (found["losses"], found["weights"]["value"], found["eager against itself"])
            table.add_row(name, *(f"{figure:.1e}" for figure in figures))
    Console().print(table)


def against_float64(method: Method, scale: Scale) -> dict[str, Any]:
    """Compare loss and gradient at the taps with float64 on the CPU: on the card, and beside it on the CPU in float32.

    Returns:
        For ``card`` and ``cpu`` the relative difference of the loss, and of each image's gradient the median, the
        95th percentile and the largest.
    """
    exact = _loss_and_gradients(method, scale, "cpu", torch.float64)
    figures: dict[str, Any] = {"images": scale.compared}
    for name, device in (("card", scale.device), ("cpu", "cpu")):
        figures[name] = _difference(exact, _loss_and_gradients(method, scale, device, torch.float32))
    if method.rank == 1:
        figures["median"] = target(figures["card"]["median"], at_most=MEDIAN_K1)
    elif method.rank:
        figures["95 %"] = target(figures["card"]["95 %"], at_most=LARGEST_K4)
    return figures


def _loss_and_gradients(
    method: Method, scale: Scale, device: str, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the loss and its gradient at each tap, or at the logits, on the CPU in float64."""
    (logits, maps), (teacher_logits, teacher_maps) = _networks(scale, method.narrow)
    torch.manual_seed(0)  # of what the loss itself learns
    criterion = method.make()
    adapters: nn.Module = nn.Identity()
    theirs = [one.to(device, dtype) for one in teacher_maps]
    if criterion.reads == "logits":
        own = [logits.to(device, dtype).requires_grad_()]
        labels = torch.arange(scale.compared, device=device) % logits.shape[1]
        value = criterion.measure(own[0], teacher_logits.to(device, dtype), labels)[0]
    else:
        own = [one.to(device, dtype).requires_grad_() for one in maps]
        if method.narrow:
            adapters = losses.Adapters.between(maps, teacher_maps) or adapters
        criterion.prepare(maps if not method.narrow else teacher_maps, teacher_maps)
        for one in (adapters, criterion):
            if isinstance(one, nn.Module):
                one.to(device, dtype)
        with full_float32(torch.device(device)):
            value = criterion.measure(adapters(own), theirs)[0]
    gradients = torch.autograd.grad(value, own, allow_unused=True)
    reached = [torch.zeros_like(x) if g is None else g for x, g in zip(own, gradients, strict=True)]
    return value.detach().double().cpu(), tuple(g.detach().double().cpu() for g in reached)


def _difference(exact: tuple[Tensor, tuple[Tensor, ...]], found: tuple[Tensor, tuple[Tensor, ...]]) -> dict[str, float]:
    goal, own = (torch.cat([g.flatten(1) for g in gradients], 1) for _, gradients in (exact, found))
    size = goal.norm(dim=1)
    reached = size > 1e-12 * size.max()
    off = ((own - goal).norm(dim=1) / size)[reached]
    return {
        "loss": float((found[0] - exact[0]).abs() / exact[0].abs()),
        "median": float(off.median()),
        "95 %": float(off.quantile(0.95)),
        "largest": float(off.max()),
    }


Sides = tuple[tuple[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


@lru_cache(maxsize=2)
def _networks(scale: Scale, narrow: bool) -> Sides:
    """Return logits and maps of student and teacher, untrained, in float32 on the CPU."""
    images = made_up(max(100, scale.compared))
    pixels = standardize(next(images.train.batches([torch.arange(scale.compared)])), images.mean, images.std)
    torch.manual_seed(0)
    sides = []
    for name, width in (("vgg-student", scale.width * (NARROW if narrow else 1.0)), ("vgg-teacher", scale.width)):
        network = create(name, num_classes=100, width=width)
        with torch.no_grad(), Taps(network, default_taps(name)) as taps:
            sides.append((network(pixels), taps.collect()))
    return sides[0], sides[1]


def followed(method: str, scale: Scale) -> dict[str, Any]:
    """Train for a while with captured steps and with eager ones, twice, from the same weights on the same images.

    Returns:
        The largest relative difference: of the losses (means over an epoch), and of the weights, relative to how far
        they have moved; the latter also of the second eager training from the first, since kernels need not repeat
        themselves to the bit.
    """
    batch, images = scale.followed
    setting = Setting(method=method, batch=batch, images=images, width=scale.width)
    with _repeatable():
        captured = _trained(Buffered, scale, setting)
        first = _trained(Eager, scale, setting)
        again = _trained(Eager, scale, setting)
    moved = _distance(first.end, first.begin)
    return {
        "steps": scale.steps,
        "losses": max(_relative(a, b) for a, b in zip(captured.losses, first.losses, strict=True)),
        "weights": target(_distance(captured.end, first.end) / moved, at_most=ROUNDING),
        "eager against itself": _distance(again.end, first.end) / moved,
    }


class _Trained(NamedTuple):
    begin: dict[str, Tensor]
    end: dict[str, Tensor]
    losses: list[float]


def _trained(steps: type[Eager] | type[Buffered], scale: Scale, setting: Setting) -> _Trained:
    torch.manual_seed(0)
    prepared = Prepared(scale, setting)
    begin = prepared.weights()
    step = steps(prepared)
    figures = []
    for number in range(1, scale.steps + 1):
        step()
        if number % len(prepared.batches) == 0 or number == scale.steps:
            read = prepared.metrics.read()
            figures += [read[key] for key in ("loss", "transfer") if key in read]
    return _Trained(begin, prepared.weights(), figures)


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference of two sets of weights, without counters."""
    parts = [(value - other[name]).double().norm() for name, value in one.items() if value.is_floating_point()]
    return float(torch.stack(parts).norm())


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Have cuDNN take the same way each time, in full float32, so that what differs is the capture's doing."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
