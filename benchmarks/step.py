"""One training step with KD-SVD against its parts, in every layout and precision, and what saves time or memory.

Its parts are what no implementation can leave out: the teacher's forward pass, the student's, one backward pass from
the logits, one from the taps, and the optimizer's step.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from shutil import which
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measure import machine, peak_bytes, ratio, side_by_side, spread, target, write
from benchmarks.straightforward import straightforward_loss
from svdistill import Distiller
from svdistill.errors import SvdistillWarning
from svdistill.losses import SVDLoss
from svdistill.losses.maps import number, numbered
from svdistill.losses.protocol import Maps, Reads, TransferLoss
from svdistill.nets import Taps, compile_module, create, default_taps, recompute_activations
from svdistill.teacher_cache import TeacherCache
from svdistill.training import Examples, Learner, launch, make_optimizer, step, take_step
from svdistill.training.memory import keep_freed_memory

BATCH = 128
STEP_OVER_PARTS = 1.10
CACHED_OVER_LIVE = 0.65
DEEP, DEEP_TEACHER, DEEP_BATCH = "resnet110", "resnet56", 32


class Straightforward(nn.Module, TransferLoss[Maps, list[Tensor]]):
    """The loss as one would write it down, as a distiller takes it."""

    reads: ClassVar[Reads] = "maps"
    storable: ClassVar[bool] = False

    def extract(self, teacher: Maps, student: Maps) -> list[Tensor]:
        """Return the teacher's maps."""
        return list(teacher)

    def compare(self, student: Maps, goal: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of rank 1 in float32."""
        return straightforward_loss([m.float() for m in student], [m.float() for m in goal], rank=1), {}

    def pack(self, goal: list[Tensor]) -> dict[str, Tensor]:
        """Name the maps."""
        return number("map", goal)

    def unpack(self, stored: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the maps."""
        return numbered(stored, "map")


class Pair:
    """A student, its teacher, an optimizer, and a batch of noise, ready for steps.

    Args:
        device: where to run.
        precision: of the engine.
        channels_last: whether weights and images are stored channels-last.
        loss: the transfer loss; None is KD-SVD, k = 1.
        student: name of the student's network.
        teacher: name of the teacher's network.
        batch: number of images of 32×32 pixels.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        precision: str = "32-true",
        channels_last: bool = False,
        loss: TransferLoss[Any, Any] | None = None,
        student: str = "vgg-student",
        teacher: str = "vgg-teacher",
        batch: int = BATCH,
    ) -> None:
        self.engine = launch(device=device, precision=precision, seed=0)
        self.student, self.teacher = create(student, num_classes=100), create(teacher, num_classes=100)
        self.taps = default_taps(student), default_taps(teacher)
        self.loss = SVDLoss(reduction="sum") if loss is None else loss
        self.distiller = Distiller(
            self.student, self.teacher, loss=self.loss, student_taps=self.taps[0], teacher_taps=self.taps[1]
        ).train()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.distiller.to(self.engine.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = make_optimizer("sgd", self.distiller, lr=1e-4, weight_decay=1e-4)
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.images = images.to(self.engine.device, memory_format=layout)
        self.labels = torch.arange(batch, device=self.engine.device) % 100
        self.parameters = list(self.student.parameters())
        self._at_maps: list[Tensor] | None = None

    def step(self) -> None:
        """Do the step of a run."""
        step(self.engine, self.distiller, self.optimizer, self.images, self.labels, epoch=0)

    def plain(self) -> None:
        """Do the step of a run of the student alone."""
        step(self.engine, Distiller(self.student).train(), self.optimizer, self.images, self.labels, epoch=0)

    def cached(self) -> Callable[[], object]:
        """Return the step without the teacher; what is stored of it for this batch is in memory."""
        shapes = self.distiller.teacher_shapes(self.images)
        cache = TeacherCache.in_memory(
            self.distiller.extract(self.images), tap_shapes=shapes, precise=self.distiller.precise
        )
        distiller = Distiller(
            self.student,
            cache,
            loss=self.loss,
            student_taps=self.taps[0],
            teacher_taps=self.taps[1],
        ).train()
        numbers = torch.arange(len(self.images))
        examples = Examples(self.images, self.labels, numbers, torch.zeros_like(numbers))
        return partial(take_step, Learner(self.engine, distiller, self.optimizer), examples, epoch=0)

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        """Run the student, tapped, and return the main loss and its maps."""
        with self.engine.autocast(), Taps(self.student, self.taps[0]) as taps:
            return F.cross_entropy(self.student(self.images), self.labels), taps.collect()

    def parts(self, note: Callable[[str], None] = lambda _: None) -> None:
        """Do what no step can leave out; ``note`` is told after each part."""
        with torch.no_grad(), self.engine.autocast():
            self.teacher(self.images)
        note("teacher forward")
        loss, maps = self.forward()
        note("student forward")
        main = torch.autograd.grad(loss, self.parameters, retain_graph=True)
        note("backward from the logits")
        self._at_maps = self._at_maps or [torch.randn_like(m) for m in maps]
        torch.autograd.grad(maps, self.parameters, self._at_maps, allow_unused=True)
        note("backward from the taps")
        for parameter, gradient in zip(self.parameters, main, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        note("optimizer's step")


def parts_one_by_one(pair: Pair, *, rounds: int) -> dict[str, Any]:
    """Time each part of a step."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        last = time.perf_counter()

        def note(name: str) -> None:
            nonlocal last
            now = time.perf_counter()
            times.setdefault(name, []).append(now - last)
            last = now

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SvdistillWarning)  # of the decay, which is no part of them
            pair.parts(note)
    return {name: spread(seconds) for name, seconds in times.items()}


def one_backward_or_two(pair: Pair, *, rounds: int) -> dict[str, Any]:
    """Compare two backward passes with one that carries both gradients (``is_grads_batched``) on the same graph."""
    with Taps(pair.student, pair.taps[0]) as taps:
        logits = pair.student(pair.images)
        maps = taps.collect()
    at_logits = torch.randn_like(logits)
    at_maps = [torch.randn_like(m) for m in maps]
    both = [torch.stack([torch.zeros_like(g), g]) for g in at_maps]
    both.append(torch.stack([at_logits, torch.zeros_like(at_logits)]))
    grad = partial(torch.autograd.grad, inputs=pair.parameters, retain_graph=True, allow_unused=True)

    def two() -> tuple[tuple[Tensor | None, ...], ...]:
        return grad(logits, grad_outputs=at_logits), grad(maps, grad_outputs=at_maps)

    def batched() -> tuple[Tensor | None, ...]:
        return grad([*maps, logits], grad_outputs=both, is_grads_batched=True)

    worst = 0.0
    for main, transfer, pair_of in zip(*two(), batched(), strict=True):
        assert main is not None
        assert pair_of is not None
        expected = torch.stack([main, torch.zeros_like(main) if transfer is None else transfer])
        worst = max(worst, float((pair_of - expected).norm() / expected.norm()))
    times = side_by_side({"two backward passes": two, "one batched pass": batched}, rounds=rounds, title="backward")
    return {
        **{name: spread(seconds) for name, seconds in times.items()},
        "batched over two": ratio(times["one batched pass"], times["two backward passes"]),
        "largest relative difference": f"{worst:.1e}",
        "in use": "two backward passes",
    }


def recomputing(*, rounds: int) -> dict[str, Any]:
    """Measure time and peak memory of a step of a deep student with its activations kept, and computed again."""
    pair = Pair(student=DEEP, teacher=DEEP_TEACHER, batch=DEEP_BATCH)

    def again() -> None:
        with recompute_activations(pair.student):
            pair.step()

    functions = {"kept": pair.step, "computed again": again}
    times = side_by_side(functions, rounds=rounds, warmup=1, title=DEEP)
    peaks = {name: peak_bytes(function) / 1e6 for name, function in functions.items()}
    return {
        "note": f"KD-SVD step, student {DEEP}, teacher {DEEP_TEACHER}, batch {DEEP_BATCH}.",
        "batch": DEEP_BATCH,
        **{f"activations {name}": spread(seconds) for name, seconds in times.items()},
        **{f"peak MB above weights and momentum, activations {name}": peak for name, peak in peaks.items()},
        "time, computed again over kept": ratio(times["computed again"], times["kept"]),
        "memory, computed again over kept": peaks["computed again"] / peaks["kept"],
    }


def compiled(*, rounds: int) -> dict[str, Any] | None:
    """Compare the step with that of a compiled student; None where there is no compiler."""
    if not any(map(which, ("g++", "clang++"))):
        return None
    plain, other = Pair(), Pair()
    compile_module(other.student)
    start = time.perf_counter()
    other.step()
    seconds = time.perf_counter() - start
    times = side_by_side({"KD-SVD step": plain.step, "compiled student": other.step}, rounds=rounds, title="compiled")
    return {
        **{name: spread(values) for name, values in times.items()},
        "seconds of the first step, compilation included": seconds,
        "compiled over plain": ratio(times["compiled student"], times["KD-SVD step"]),
    }


def variants(*, rounds: int) -> dict[str, Any]:
    """Time the step and its parts, in each layout and precision, in turn."""
    pair, fast = Pair(), Pair(precision="bf16-mixed", channels_last=True)
    recommended = Pair(loss=SVDLoss(rank=8, basis="teacher", reduction="sum"))
    times = side_by_side(
        {
            "plain student": pair.plain,
            "its parts": pair.parts,
            "KD-SVD step": pair.step,
            "KD-SVD step, the teacher's knowledge stored": pair.cached(),
            "KD-SVD step, eight vectors in the teacher's basis": recommended.step,
            "the same, the teacher's knowledge stored": recommended.cached(),
            "KD-SVD step, channels-last": Pair(channels_last=True).step,
            "KD-SVD step, bf16-mixed": Pair(precision="bf16-mixed").step,
            "KD-SVD step, bf16-mixed, channels-last": fast.step,
            "its parts, bf16-mixed, channels-last": fast.parts,
            "KD-SVD step, bf16-mixed, channels-last, the teacher's knowledge stored": fast.cached(),
        },
        rounds=rounds,
        title="step",
    )
    live, fastest = times["KD-SVD step"], times["KD-SVD step, bf16-mixed, channels-last"]
    return {
        **{name: spread(seconds) for name, seconds in times.items()},
        "KD-SVD step / its parts": target(ratio(live, times["its parts"]), at_most=STEP_OVER_PARTS),
        "with the teacher's knowledge stored / with a live teacher": target(
            ratio(times["KD-SVD step, the teacher's knowledge stored"], live), at_most=CACHED_OVER_LIVE
        ),
        "KD-SVD step, eight vectors in the teacher's basis / its parts": ratio(
            times["KD-SVD step, eight vectors in the teacher's basis"], times["its parts"]
        ),
        "KD-SVD step / its parts, bf16-mixed, channels-last": ratio(
            fastest, times["its parts, bf16-mixed, channels-last"]
        ),
        "channels-last, times faster than float32 contiguous": ratio(live, times["KD-SVD step, channels-last"]),
        "bf16-mixed, times faster": ratio(live, times["KD-SVD step, bf16-mixed"]),
        "bf16-mixed channels-last, times faster": target(ratio(live, fastest), at_least=1.0),
    }


def main() -> None:
    """Measure the published VGG pair at full width, print the times, write JSON."""
    figures: dict[str, Any] = {"batch": BATCH, **variants(rounds=15)}
    figures["memory that is freed"] = "kept by the process" if keep_freed_memory() else "as the allocator does"
    show(figures, f"Training step, VGG pair, full width, batch {BATCH}, {machine()['threads']} threads")
    figures["its parts one by one"] = parts_one_by_one(Pair(), rounds=9)
    figures["one backward pass or two"] = one_backward_or_two(Pair(), rounds=9)
    figures["recomputed activations"] = recomputing(rounds=5)
    if (found := compiled(rounds=9)) is not None:
        figures["torch.compile"] = found
    for name, part in figures.items():
        if isinstance(part, Mapping) and "median_ms" not in part and "value" not in part:
            show(part, name)
    print(f"written: {write('step', figures)}")


def show(figures: Mapping[str, Any], title: str) -> None:
    """Print figures as a table."""
    table = Table("", "", title=title, show_header=False)
    for name, value in figures.items():
        if isinstance(value, Mapping) and "median_ms" in value:
            table.add_row(name, f"{value['median_ms']:.1f} ms ({value['q1_ms']:.1f}–{value['q3_ms']:.1f})")
        elif isinstance(value, Mapping) and "median_per_s" in value:
            table.add_row(name, f"{value['median_per_s']:.0f} images/s")
        elif isinstance(value, Mapping) and "value" in value:
            limit = f"≤ {value['at_most']}" if "at_most" in value else f"≥ {value['at_least']}"
            table.add_row(name, f"{value['value']:.3f} (target {limit})")
        elif not isinstance(value, Mapping):
            table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
