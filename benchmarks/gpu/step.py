"""The training step of the VGG pair, every way it can be taken, against its targets; where its time goes by kernels."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.gpu.kernels import by_kernel, total
from benchmarks.gpu.scale import CIFAR_IMAGES, EPOCHS, Scale
from benchmarks.gpu.sheet import Case, Clock, NotPossibleError, Sheet
from benchmarks.gpu.steps import ALONE, Buffered, Eager, Prepared, Setting, captured_name
from benchmarks.measure import spread, target
from benchmarks.step import Straightforward
from svdistill.losses.maps import number, numbered
from svdistill.losses.protocol import Maps, Reads, TransferLoss
from svdistill.training import evaluate

METHOD = "svd-eccv2018"
# The targets are those of one H100, for bf16, channels-last, batch 128.
STEP_MS, IMAGES_PER_SECOND, OVER_EAGER, LOSS_SHARE, RUN_SECONDS = 1.5, 85_000, 3.0, 0.10, 120
SLOW_SECONDS = 5.0  # that all steps with the straightforward loss may take in one layout

PLAIN, EAGER, COMPILED = "plain student, eager", "KD-SVD, eager", "KD-SVD, compiled"
STRAIGHTFORWARD = "straightforward loss, eager"


class Void(nn.Module, TransferLoss[Maps, list[Tensor]]):
    """A loss that costs next to nothing: a step with it does all that one with KD-SVD does, but for the loss."""

    reads: ClassVar[Reads] = "maps"

    @property
    def sums(self) -> bool:
        """Whether the loss is a sum over the batch, as KD-SVD is."""
        return True

    def extract(self, teacher: Maps, student: Maps) -> list[Tensor]:
        """Return one number of each of the teacher's maps and images."""
        return [one.flatten(1)[:, :1].float() for one in teacher]

    def compare(self, student: Maps, goal: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the maps, whose gradient reaches all of them."""
        return torch.stack([(m.float().sum() + g.sum()) for m, g in zip(student, goal, strict=True)]).sum() * 1e-6, {}

    def pack(self, goal: list[Tensor]) -> dict[str, Tensor]:
        """Name the numbers."""
        return number("one", goal)

    def unpack(self, stored: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the numbers."""
        return numbered(stored, "one")


class Steps:
    """The ways to take a step in one layout and batch size.

    Args:
        scale: says where, and how often each is timed.
        precision: of the engine.
        channels_last: how networks and maps lie in memory.
        batch: images a step.
        slow: seconds an image of a step with the straightforward loss, by layout, as far as they are known.
    """

    def __init__(
        self,
        scale: Scale,
        precision: str,
        channels_last: bool,
        batch: int,
        slow: dict[tuple[str, bool], float],
    ) -> None:
        self._slow = slow
        self.scale = scale
        self.batch = batch
        self.name = layout(precision, channels_last, batch)
        self._form = precision, channels_last
        self.setting = partial(
            Setting,
            method=METHOD,
            batch=batch,
            images=scale.images,
            precision=precision,
            channels_last=channels_last,
            width=scale.width,
        )
        self.captured = captured_name(scale)

    def ways(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return what measures each way, by name, the most important first."""
        make, captured = self.setting, self.captured
        return {
            f"KD-SVD, {captured}": lambda: self._time(Buffered, make()),
            EAGER: lambda: self._time(Eager, make()),
            f"plain student, {captured}": lambda: self._time(Buffered, make(method=ALONE)),
            PLAIN: lambda: self._time(Eager, make(method=ALONE)),
            f"KD-SVD, stored knowledge, {captured}": lambda: self._time(Buffered, make(stored=True)),
            f"without the transfer loss, {captured}": lambda: self._time(Buffered, make(losses={"svd": Void()})),
            "share of the transfer loss": self._share,
        }

    def seldom(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return what measures the ways that take long to be measured, by name."""
        slow = self.setting(losses={"svd": Straightforward()})
        return {COMPILED: self._compiled, STRAIGHTFORWARD: lambda: self._straightforward(slow)}

    def _time(self, steps: type[Eager] | type[Buffered], setting: Setting) -> dict[str, Any]:
        """Time steps in blocks, in milliseconds a step."""
        return self._in_blocks(steps(Prepared(self.scale, setting)))

    def _in_blocks(self, step: Callable[[], None]) -> dict[str, Any]:
        for _ in range(3 * self.scale.block):
            step()
        return self._figures([self._once(step, self.scale.block) for _ in range(self.scale.rounds)])

    def _straightforward(self, setting: Setting) -> dict[str, Any]:
        """Time single steps; where one takes long there are few, and for a larger batch there may be none."""
        if (known := self._slow.get(self._form, 0.0) * self.batch) > SLOW_SECONDS:
            raise NotPossibleError(f"a step would take about {known:.0f} s, by that of a smaller batch")
        step = Eager(Prepared(self.scale, setting))
        seconds: list[float] = []
        while len(seconds) <= self.scale.rounds and sum(seconds) < SLOW_SECONDS:
            seconds.append(self._once(step, 1))
        counted = seconds[1:] or seconds  # the first one loads libraries
        self._slow[self._form] = statistics.median(counted) / self.batch
        return self._figures(counted)

    def _once(self, step: Callable[[], None], count: int) -> float:
        """Return the seconds of a step, as the mean of several without a wait between them."""
        _wait(self.scale)
        start = time.perf_counter()
        for _ in range(count):
            step()
        _wait(self.scale)
        return (time.perf_counter() - start) / count

    def _figures(self, seconds: list[float]) -> dict[str, Any]:
        figures: dict[str, Any] = {**spread(seconds), "images_per_s": self.batch / statistics.median(seconds)}
        if self.scale.device.startswith("cuda"):
            figures["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
        return figures

    def _compiled(self) -> dict[str, Any]:
        from torch._dynamo.exc import TorchDynamoException  # takes seconds, which the other parts would lose too

        step = Eager(Prepared(self.scale, self.setting(compiled=self.scale.device.startswith("cuda"))))
        try:
            first = self._once(step, 1)
        except TorchDynamoException as error:
            raise NotPossibleError(f"cannot be compiled here: {error}") from error
        return {**self._in_blocks(step), "seconds of the first step": first}

    def _share(self) -> dict[str, Any]:
        """Compare, kernel by kernel, the step with the same step without its transfer loss."""
        count = 2 * self.scale.block
        whole, void = (
            by_kernel(self._warm(setting), count, device=self.scale.device)
            for setting in (self.setting(), self.setting(losses={"svd": Void()}))
        )
        all_of_it, rest = total(whole), total(void)
        return {
            "kernels, µs a step": all_of_it,
            "kernels without the transfer loss, µs a step": rest,
            "share": (all_of_it - rest) / all_of_it,
            "launched kernels a step": sum(row["calls"] for row in whole),
            "kernels": whole[:25],
        }

    def _warm(self, setting: Setting) -> Callable[[], None]:
        step = Buffered(Prepared(self.scale, setting))
        for _ in range(3):
            step()
        return step


def layout(precision: str, channels_last: bool, batch: int) -> str:
    """Name a precision, a layout and a batch size."""
    return f"{'bf16' if precision == 'bf16-mixed' else 'float32'}{', channels-last' if channels_last else ''}, {batch}"


def measure(sheet: Sheet, scale: Scale, clock: Clock) -> None:
    """Time every way to take a step, then what takes long, then set the figures beside the targets; print them."""
    slow: dict[tuple[str, bool], float] = {}
    groups = [Steps(scale, *form, batch, slow) for batch in scale.batches for form in scale.layouts]
    cases = [Case(f"{g.name}: {name}", _freeing(way), 3.0) for g in groups for name, way in g.ways().items()]
    cases.insert(1, Case("an epoch", _freeing(partial(an_epoch, scale, groups[0].setting())), 5.0))
    seldom = {f"{g.name}: {name}": way for g in groups for name, way in g.seldom().items()}
    cases += [Case(name, _freeing(way), 1.0 if scale.rehearsal else 20.0) for name, way in seldom.items()]
    sheet.measure(cases, clock)
    sheet.results["targets"] = targets(sheet.results, groups[0])
    sheet.write()
    table = Table("", "ms a step", "images/s", title="The training step")
    for name, found in sheet.results.items():
        if "median_ms" in found:
            table.add_row(name, f"{found['median_ms']:.3f}", f"{found['images_per_s']:,.0f}")
    Console().print(table)
    table = Table("", "", "target", title=f"Against the targets, {groups[0].name}")
    for name, figure in sheet.results["targets"].items():
        limit = f"≤ {figure['at_most']:g}" if "at_most" in figure else f"≥ {figure['at_least']:g}"
        table.add_row(name, f"{figure['value']:,.3g}", limit)
    Console().print(table)


def an_epoch(scale: Scale, setting: Setting) -> dict[str, Any]:
    """Time what an epoch has beside its steps: filling the buffers, and the evaluation of a fifth as many images."""
    prepared = Prepared(scale, setting)
    step, images = Buffered(prepared), prepared.images

    def evaluation() -> None:
        student = prepared.distiller.student
        evaluate(prepared.learner.engine, student, images.test, mean=images.mean, std=images.std)

    def whole() -> None:
        for _ in range(len(prepared.batches)):
            step()
        prepared.metrics.read()
        evaluation()

    seconds = {}
    for name, function in (("evaluation", evaluation), ("epoch", whole)):
        function()
        _wait(scale)
        start = time.perf_counter()
        function()
        _wait(scale)
        seconds[name] = time.perf_counter() - start
    return {"images": scale.images, "evaluated images": len(images.test), **seconds}


def targets(results: Mapping[str, Any], group: Steps) -> dict[str, Any]:
    """Set what was measured in the most important layout beside the targets; what was not measured is left out."""
    steps = {name.partition(": ")[2]: found for name, found in results.items() if name.startswith(f"{group.name}: ")}
    captured, eager = steps.get(f"KD-SVD, {group.captured}"), steps.get(EAGER)
    found: dict[str, Any] = {}
    if captured:
        found["ms a step"] = target(captured["median_ms"], at_most=STEP_MS)
        found["images a second"] = target(captured["images_per_s"], at_least=IMAGES_PER_SECOND)
    if captured and eager:
        over = eager["median_ms"] / captured["median_ms"]
        found[f"{group.captured}, times faster than eager"] = target(over, at_least=OVER_EAGER)
    if share := steps.get("share of the transfer loss"):
        found["share of the transfer loss, by kernels"] = target(share["share"], at_most=LOSS_SHARE)
    without = steps.get(f"without the transfer loss, {group.captured}")
    if captured and without:
        part = 1 - without["median_ms"] / captured["median_ms"]
        found["share of the transfer loss, by the step without it"] = target(part, at_most=LOSS_SHARE)
    if epoch := results.get("an epoch"):
        run = EPOCHS * epoch["epoch"]
        found[f"seconds for {EPOCHS} epochs of {epoch['images']:,} images, evaluation included"] = target(
            run, at_most=RUN_SECONDS * epoch["images"] / CIFAR_IMAGES
        )
    return found


def _freeing(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Begin with no memory of an earlier case, which might slow this one or leave it too little."""

    def run() -> dict[str, Any]:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return function()

    return run


def _wait(scale: Scale) -> None:
    if scale.device.startswith("cuda"):
        torch.cuda.synchronize()
