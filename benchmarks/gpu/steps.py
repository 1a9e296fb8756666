"""Whole training steps, as a run takes them: from uint8 images on the device to the optimizer's step and the sums."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.sheet import NotPossibleError
from svdistill import recipes, training
from svdistill.data import Batch, ImageSet
from svdistill.distiller import Distiller
from svdistill.errors import TrainingError
from svdistill.gradients import TransferHealth
from svdistill.losses.protocol import Losses
from svdistill.nets import compile_module
from svdistill.recipes import Recipe, build
from svdistill.recipes.images import Images, noise
from svdistill.teacher_cache import TeacherCache
from svdistill.training.buffered import BufferedSteps
from svdistill.training.metrics import Metrics

ALONE = "alone"
RECIPE = "eccv/vgg-cifar100-svd"  # its networks, optimizer and augmentation
CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a step depends on.

    Attributes:
        method: by which the student learns, as recipes name it.
        batch: images a step.
        images: of the made-up training set, from which epochs are drawn.
        precision: of the engine.
        channels_last: how networks and maps lie in memory.
        stored: what the losses need of the teacher is stored, and no teacher runs.
        compiled: student and losses by `torch.compile`.
        width: of both networks.
        losses: in place of the method's own.
    """

    method: str
    batch: int
    images: int
    precision: str = "32-true"
    channels_last: bool = False
    stored: bool = False
    compiled: bool = False
    width: float = 1.0
    losses: Losses | None = None


class Prepared:
    """Student, teacher, images and optimizer on the device, ready for steps.

    Args:
        scale: says which device.
        setting: says everything else.

    Attributes:
        distiller: in train mode.
        learner: what a step takes.
        batches: of the made-up images.
        objective: of the method, in its first stage.
    """

    def __init__(self, scale: Scale, setting: Setting) -> None:
        recipe = _recipe(setting)
        engine = training.launch(device=scale.device, precision=setting.precision, seed=0)
        images = made_up(setting.images)
        self.distiller = _distiller(recipe, images, setting.losses)
        self.distiller.prepare(noise(images))
        if setting.channels_last:
            self.distiller.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.distiller.to(engine.device)
        self.images = images.to(engine.device)
        plan = build.training_plan(recipe, self.distiller, self.images)
        if setting.stored:
            self.distiller = self._without_teacher(recipe, plan.batches.epoch())
        self.distiller.train()
        if setting.compiled:
            compile_module(self.distiller.student)
            if engine.device.type == "cuda":
                self.distiller.compile_losses()
        optimizer = build.optimizer(recipe, self.distiller)
        reducer = training.Reducer(training.Processes(engine))
        self.learner = training.Learner(engine, self.distiller, optimizer, 1, reducer)
        self.batches = plan.batches
        self.objective = plan.stages[0].objective
        self.metrics, self.health = Metrics(engine.device), TransferHealth()

    def _without_teacher(self, recipe: Recipe, batches: Iterator[Batch]) -> Distiller:
        """Return a distiller of the same student with what is stored of its teacher for as many images as there are."""
        distiller = self.distiller
        some = next(batches).images
        known = distiller.extract(some)
        # What the numbers are makes no difference to the time, so those of one batch stand for all images.
        count = -(-len(self.images.train) // len(some))
        whole = {
            loss: {name: one.repeat(count, *[1] * (one.dim() - 1)) for name, one in tensors.items()}
            for loss, tensors in known.items()
        }
        shapes = distiller.teacher_shapes(some)
        cache = TeacherCache.in_memory(whole, tap_shapes=shapes, precise=distiller.precise)
        stored = build.distiller(recipe, distiller.student, cache, teacher_recipe=recipes.teacher_of(recipe))
        return stored.to(some.device)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of what has been learned so far."""
        return {name: value.detach().clone() for name, value in self.distiller.state_dict().items()}


class Eager:
    """Steps one after the other, each launched from Python; calling it takes the next one."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.epoch = -1
        self._left: Iterator[Batch] = iter(())

    def __call__(self) -> None:
        """Take a step; a new epoch begins where the last one is over."""
        one = self.prepared
        batch = next(self._left, None)
        if batch is None:
            self.epoch += 1
            _forget(one)
            self._left = one.batches.epoch()
            batch = next(self._left)
        images, labels = one.learner.engine.to_device((batch.images, batch.labels))
        examples = training.Examples(images, labels, batch.indices, batch.views)
        result = training.take_step(one.learner, examples, epoch=self.epoch, objective=one.objective, health=one.health)
        one.metrics.add(result.figures, images=result.images)


class Buffered:
    """The same steps from static buffers, replayed from a CUDA graph; on a CPU without a graph.

    Args:
        prepared: student, teacher, images and optimizer.

    Raises:
        NotPossibleError: the step cannot be captured; says why.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.epoch = -1
        self._left = 0
        why = training.obstacle_to_capture(prepared.distiller, [prepared.objective])
        if why is not None:
            raise NotPossibleError(f"cannot be captured: {why}")
        try:
            self._steps = BufferedSteps(
                prepared.learner,
                prepared.batches,
                objective=prepared.objective,
                metrics=prepared.metrics,
                health=prepared.health,
                capture=True,
            )
            self.begin()
        except TrainingError as error:
            raise NotPossibleError(f"cannot be captured: {error}") from error

    def begin(self) -> None:
        """Fill the buffers for the next epoch."""
        self.epoch += 1
        _forget(self.prepared)
        self._left = self._steps.begin(self.epoch)

    def __call__(self) -> None:
        """Take a step; a new epoch begins where the last one is over."""
        if not self._left:
            self.begin()
        self._steps.step()
        self._left -= 1


@lru_cache(maxsize=2)
def made_up(count: int) -> Images:
    """Return made-up images in the shape of CIFAR-100: as many to train on, and a fifth as many to evaluate on."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"class {i}" for i in range(CLASSES))

    def some(number: int) -> ImageSet:
        # Blurred noise: maps of plain noise are alike for all images.
        rough = torch.rand(number, 3, 8, 8, generator=generator)
        pixels = torch.nn.functional.interpolate(rough, size=32, mode="bilinear").mul_(255).to(torch.uint8)
        return ImageSet(pixels, torch.arange(number) % CLASSES, names)

    half = torch.full((3,), 0.5)
    return Images(some(count), some(max(CLASSES, count // 5)), half, half / 2)


def captured_name(scale: Scale) -> str:
    """Return what the buffered steps are called; a rehearsal on a CPU captures nothing, and says so."""
    return "captured" if scale.device.startswith("cuda") else "buffered, without a graph"


def _recipe(setting: Setting) -> Recipe:
    alone = setting.method == ALONE
    settings: dict[str, Any] = {
        "model": {"width": setting.width},
        "train": {"batch_size": setting.batch, "epochs": 100, "milestones": []},
    }
    if not alone:
        overrides: Mapping[str, Any] = {"model": {"width": setting.width}}
        settings["teacher"] = {"overrides": overrides, "views": 1 if setting.stored else None}
    return recipes.load(RECIPE, settings, method=setting.method)


def _distiller(recipe: Recipe, images: Images, losses: Losses | None) -> Distiller:
    student = build.model(recipe, images)
    parent = recipes.teacher_of(recipe)
    if parent is None:
        return build.distiller(recipe, student, None, teacher_recipe=None)
    teacher = build.model(parent, images).eval()
    if losses is None:
        return build.distiller(recipe, student, teacher, teacher_recipe=parent)
    return Distiller(
        student,
        teacher,
        loss=losses,
        student_taps=build.taps(recipe),
        teacher_taps=build.teacher_taps(recipe, parent),
    )


def _forget(prepared: Prepared) -> None:
    prepared.metrics.reset()
    prepared.health.reset()
