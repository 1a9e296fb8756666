"""Settings → objects: the only file that knows both. Each error names the key that is to be changed."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from svdistill import data, nets, training
from svdistill.distiller import Adapted, Distiller, Knowledge, StorableLoss, TransferLoss
from svdistill.errors import CheckpointError, OptionError, RecipeError, SvdistillError, nearest
from svdistill.losses import AttentionLoss, FitNetLoss, FSPLoss, RelationalLoss, SoftTargetLoss, SVDLoss
from svdistill.recipes.schema import AnyLoss, DataSettings, LossSettings, Recipe

# With fewer images RKD's distances and angles are the same in any two networks.
_LEAST_RELATED = 3


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a run.

    Attributes:
        train: the labelled training images, after ``train_size``.
        test: the images to measure with.
        mean: (C,), of all training images in [0, 1], not only the labelled ones, so that a teacher and students of
            every train_size see the same standardized images.
        std: (C,), likewise.
        unlabelled: images for the transfer task alone, or None.
    """

    train: data.ImageSource
    test: data.ImageSource
    mean: Tensor
    std: Tensor
    unlabelled: data.ImageSource | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Self:
        """Return the same images on another device."""
        return type(self)(
            self.train.to(device),
            self.test.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
            unlabelled=None if self.unlabelled is None else self.unlabelled.to(device),
        )


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key in front of the message of an error that the settings under it cause."""
    try:
        yield
    except OptionError as error:
        raise RecipeError(f"{key}: {error}") from error
    except SvdistillError as error:
        raise type(error)(f"{key}: {error}") from error


Loaded = dict[str, tuple[data.Dataset, Tensor, Tensor]]


def images(recipe: Recipe, *, loaded: Loaded | None = None) -> Images:
    """Load the images of a recipe onto the CPU.

    Args:
        recipe: its part ``data`` and its seed, which chooses the labelled images, are read.
        loaded: keeps whole data sets with their statistics for further calls, so that student and teacher share one.

    Returns:
        The images and their statistics.

    Raises:
        RecipeError: an unknown data set, or a flip where a mirror image is another class.
        DataError: missing or damaged files, or fewer images than asked for.
    """
    settings = recipe.data
    check_names(recipe)
    dataset, mean, std = _load(settings, {} if loaded is None else loaded)
    if settings.augment.flip and not dataset.flip_allowed:
        raise RecipeError(
            f"data.augment.flip: a mirror image of {settings.name!r} is not of its class; take data.augment.flip=false"
        )
    labelled = dataset.train
    if settings.train_size is not None:
        with _named("data.train_size"):
            labelled = labelled.subset(settings.train_size, seed=recipe.seed)
    if recipe.train.batch_size > len(labelled):
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} is more than the {len(labelled)} training images"
        )
    return Images(labelled, dataset.test, mean, std, _unlabelled(recipe, dataset))


def _load(settings: DataSettings, loaded: Loaded) -> tuple[data.Dataset, Tensor, Tensor]:
    which = settings.model_dump(include={"name", "root", "image_size", "classes", "channels"})
    key = json.dumps(which)
    if key not in loaded:
        with _named("data" if settings.root is None else "data.root"):
            dataset = data.load(**which)
            loaded[key] = dataset, *data.channel_statistics(dataset.train)
    return loaded[key]


def _unlabelled(recipe: Recipe, dataset: data.Dataset) -> data.ImageSource | None:
    """Load the images without labels, brought to size and channels of the labelled ones."""
    settings = recipe.data.unlabelled
    if settings is None:
        return None
    with _named("data.unlabelled"):
        if settings.name == "rest":
            assert recipe.data.train_size is not None
            found: data.ImageSource = dataset.train.rest(recipe.data.train_size, seed=recipe.seed)
        else:
            channels, height, _ = dataset.train.shape
            found = data.load(settings.name, root=settings.root, image_size=height, channels=channels).train
        found = found.unlabelled()
        if settings.size is not None:
            found = found.subset(settings.size, seed=recipe.seed)
        wanted = settings.batch_size or recipe.train.batch_size
        if wanted > len(found):
            raise RecipeError(f"{wanted} images a step are more than the {len(found)} there are; lower batch_size")
    return found


def batches(recipe: Recipe, images: Images, *, share: data.Share | None = None) -> data.Batches | data.Mixed:
    """Make the endless stream of training batches, on the device of the images, those without labels beside the others.

    Args:
        recipe: its augmentation, views, batch size and seed are read.
        images: what ``images`` returned, moved to its device.
        share: the part of each batch that this process gets; None = the whole.

    Returns:
        The batches, at the start of their first epoch.
    """
    share, fixed = share or data.Share(), views(recipe)
    make = partial(
        data.Batches, augmentation=augmentation(recipe), mean=images.mean, std=images.std, views=fixed, share=share
    )
    labelled = make(images.train, recipe.train.batch_size, seed=recipe.seed)
    settings = recipe.data.unlabelled
    if images.unlabelled is None or settings is None:
        return labelled
    size = settings.batch_size or recipe.train.batch_size
    # Another seed: the two streams must not draw the same warps.
    others = make(images.unlabelled, size, seed=(recipe.seed + 1) % 2**32, first=len(images.train))
    return data.Mixed(labelled, others)


def augmentation(recipe: Recipe) -> data.Augmentation:
    """Return how far the training images of a recipe are varied."""
    return data.Augmentation(**recipe.data.augment.model_dump())


def views(recipe: Recipe) -> data.Views | None:
    """Return the fixed warps of the training images that a recipe asks for, or None.

    They do not depend on its seed, so that students of several seeds share what is stored of their teacher.
    """
    count = None if recipe.teacher is None else recipe.teacher.views
    return None if count is None else data.Views(count=count)


def check_parts(recipe: Recipe, *, processes: int = 1) -> None:
    """Make sure that every step can be divided evenly, over the processes and into the parts of each.

    Args:
        recipe: its batch sizes and ``train.accumulate`` are read.
        processes: how many there are.

    Raises:
        RecipeError: it cannot; says which batch size is the nearest that can.
    """
    sizes = {"train.batch_size": recipe.train.batch_size}
    unlabelled = recipe.data.unlabelled
    if unlabelled is not None:
        sizes["data.unlabelled.batch_size"] = unlabelled.batch_size or recipe.train.batch_size
    parts = processes * recipe.train.accumulate
    for key, size in sizes.items():
        if size % parts:
            nearest_size = max(1, round(size / parts)) * parts
            divided = [f"{processes} processes"] if processes > 1 else []
            divided += [f"train.accumulate={recipe.train.accumulate}"] if recipe.train.accumulate > 1 else []
            raise RecipeError(
                f"{key}: {size} images cannot be divided evenly over {' and '.join(divided)}; take {key}={nearest_size}"
            )


def model(recipe: Recipe, images: Images) -> nn.Module:
    """Make the network of a recipe with fresh weights from torch's global generator.

    Args:
        recipe: its part ``model`` is read.
        images: say how many channels come in and how many classes go out.

    Returns:
        The network, in train mode.

    Raises:
        RecipeError: an unknown network or a width that leaves no channel.
    """
    settings = recipe.model
    with _named("model"):
        return nets.create(
            settings.name, num_classes=images.train.num_classes, in_channels=images.shape[0], width=settings.width
        )


def taps(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the student's taps: the recipe's own, else its model's."""
    return recipe.model.taps or nets.default_taps(recipe.model.name)


def teacher_taps(recipe: Recipe, teacher: Recipe | None) -> tuple[str, ...]:
    """Return the names of the teacher's taps.

    Args:
        recipe: the student's recipe, which has a teacher.
        teacher: the teacher's recipe; None where it is a checkpoint.

    Returns:
        Those of ``teacher.taps``, else of the teacher's recipe or what its file says, else of its model.

    Raises:
        CheckpointError: the teacher's file is missing or damaged.
    """
    assert recipe.teacher is not None
    if recipe.teacher.taps is not None:
        return recipe.teacher.taps
    if teacher is not None:
        return taps(teacher)
    with _named("teacher.checkpoint"):
        spec = nets.spec(str(recipe.teacher.checkpoint))
        return tuple(json.loads(spec["taps"])) if "taps" in spec else nets.default_taps(spec["name"])


def drop_tokens(recipe: Recipe, teacher: Recipe | None) -> tuple[int, int]:
    """Return how many tokens at the front of (B, N, D) taps are left out, of the student's and of the teacher's.

    Args:
        recipe: the student's recipe.
        teacher: the teacher's recipe; None where there is none or it is a checkpoint.
    """
    own = 0 if teacher is None else teacher.model.drop_tokens
    if recipe.teacher is not None and recipe.teacher.drop_tokens is not None:
        own = recipe.teacher.drop_tokens
    return recipe.model.drop_tokens, own


# What is no setting of the loss itself but of its place in training; FitNets' and the others' modules know none of it.
_PLACE = {"name", "preset", *LossSettings.model_fields}
_LOSSES: Mapping[str, Callable[..., TransferLoss]] = {
    "svd": SVDLoss,
    "soft-target": SoftTargetLoss,
    "fitnet": FitNetLoss,
    "fsp": FSPLoss,
    "attention": AttentionLoss,
    "relational": RelationalLoss,
}


def losses(recipe: Recipe) -> dict[str, TransferLoss]:
    """Make the transfer losses of a recipe, by name; {} where it has none."""
    return {loss.name: _LOSSES[loss.name](**loss.model_dump(exclude=_PLACE)) for loss in recipe.loss}


def distiller(
    recipe: Recipe, student: nn.Module, teacher: nn.Module | Knowledge | None, *, teacher_recipe: Recipe | None
) -> Distiller:
    """Put student, teacher and losses together; `Distiller.prepare` is yet to be called.

    Args:
        recipe: the student's.
        student: its network.
        teacher: the trained teacher, or what is stored of it; None trains the student alone.
        teacher_recipe: names the teacher's taps; None where it is a checkpoint.

    Returns:
        The distiller, on the device of the networks.

    Raises:
        RecipeError: an unknown tap.
        ShapeError: taps of different number.
    """
    criteria = losses(recipe)
    if teacher is None or not criteria:
        return Distiller(student)
    if not reads_maps(criteria):
        return Distiller(student, teacher, loss=criteria)
    student_drop, teacher_drop = drop_tokens(recipe, teacher_recipe)
    return Distiller(
        student,
        teacher,
        loss=criteria,
        student_taps=taps(recipe),
        teacher_taps=teacher_taps(recipe, teacher_recipe) if isinstance(teacher, nn.Module) else (),
        student_drop_tokens=student_drop,
        teacher_drop_tokens=teacher_drop,
    )


def reads_maps(criteria: Mapping[str, TransferLoss]) -> bool:
    """Whether one of the losses compares feature maps, so that taps are needed."""
    return any(criterion.reads == "maps" for criterion in criteria.values())


def stages(recipe: Recipe) -> tuple[training.Stage, ...]:
    """Make the stages of training: one, or the transfer task alone and then the main task.

    Where losses of a sum differ in how they are combined with the main task, those that are not bounded (``clip`` none)
    count as part of it. The factors on the main loss are multiplied.
    """
    knobs = recipe.train
    plan = partial(training.Stage, knobs.epochs, milestones=knobs.milestone_epochs, gamma=knobs.gamma)
    first = [loss for loss in recipe.loss if loss.stage in (None, "first", "both")]
    second = [loss for loss in recipe.loss if loss.stage in ("second", "both")]
    if not knobs.first_stage_epochs:
        return (plan(_objective(recipe.loss)),)
    weights: dict[str, float] = {loss.name: loss.weight for loss in first}
    alone = training.Objective(main=0.0, weights=weights, max_norm=knobs.first_stage_norm)
    return training.Stage(knobs.first_stage_epochs, alone), plan(_objective(second))


def _objective(terms: Sequence[AnyLoss]) -> training.Objective:
    clipped = {loss.clip for loss in terms if loss.clip != "none"}
    return training.Objective(
        main=math.prod(loss.main_weight for loss in terms),
        weights={loss.name: loss.weight for loss in terms},
        clip=next(iter(clipped), "none"),
        beside=frozenset(loss.name for loss in terms if loss.clip == "none") if clipped else frozenset(),
    )


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe for the parameters of a network, or of a distiller with all that learns."""
    settings = recipe.optimizer.model_dump(exclude={"name"})
    return training.make_optimizer(recipe.optimizer.name, model, **settings)


def metadata(recipe: Recipe, images: Images) -> dict[str, str]:
    """Return what a student's file says beside its weights: how to prepare images for it, and what its outputs mean.

    Args:
        recipe: its name, data set and taps are read.
        images: give the classes, the statistics and the size.

    Returns:
        ``recipe``, ``data``, and as JSON ``image_size``, ``classes``, ``mean``, ``std`` and, where the recipe names its
        own, ``taps``.
    """
    named = {} if recipe.model.taps is None else {"taps": json.dumps(recipe.model.taps)}
    return {
        **named,
        "recipe": recipe.name,
        "data": recipe.data.name,
        "image_size": json.dumps(images.shape[1]),
        "classes": json.dumps(images.train.classes),
        "mean": json.dumps(images.mean.tolist()),
        "std": json.dumps(images.std.tolist()),
    }


def save(model: nn.Module, path: Path, *, recipe: Recipe, images: Images) -> None:
    """Write a trained network with all that is needed to rebuild and to use it.

    Args:
        model: a network of this recipe.
        path: the safetensors file to be written, atomically.
        recipe: what it was made from.
        images: what it was trained on.
    """
    nets.save(
        model,
        path,
        name=recipe.model.name,
        num_classes=images.train.num_classes,
        in_channels=images.shape[0],
        width=recipe.model.width,
        extra=metadata(recipe, images),
    )


def teacher(path: Path, images: Images) -> nn.Module:
    """Load a trained teacher for images that are standardized for the student.

    A teacher that was trained with another mean and deviation gets its images converted to its own.

    Args:
        path: its safetensors file.
        images: the student's images.

    Returns:
        The teacher in eval mode, with (B, C, H, W) → logits.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    network = nets.load(path)
    spec = nets.spec(path)
    if "mean" not in spec or "std" not in spec:
        return network
    own_mean, own_std = statistics(path, spec)
    if own_mean.shape != images.mean.shape:
        raise CheckpointError(
            f"{path} expects images of {len(own_mean)} channels, but the data have {len(images.mean)}; take another one"
        )
    if torch.equal(own_mean, images.mean) and torch.equal(own_std, images.std):
        return network
    scale = (images.std / own_std)[:, None, None]
    offset = ((images.mean - own_mean) / own_std)[:, None, None]

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = inputs[0]
        return (first * scale.to(first.device, first.dtype) + offset.to(first.device, first.dtype), *inputs[1:])

    network.register_forward_pre_hook(convert)
    return network


def statistics(path: Path, spec: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Read mean and deviation from what a student's file says.

    Args:
        path: the file, for the message.
        spec: what ``nets.spec`` returned.

    Returns:
        mean (C,) and std (C,), float32, in units of [0, 1].

    Raises:
        CheckpointError: they are missing or no lists of numbers.
    """
    try:
        mean, std = (torch.tensor(json.loads(spec[key]), dtype=torch.float32) for key in ("mean", "std"))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not say how its images are standardized; give a file of a run") from error
    return mean, std


def check_names(*recipes: Recipe) -> None:
    """Check the names of data sets and networks, which the schema does not know.

    Args:
        recipes: a recipe and its teachers'.

    Raises:
        RecipeError: an unknown name, with the nearest right ones.
    """
    for recipe in recipes:
        other = recipe.data.unlabelled
        for key, name, known in (
            ("data.name", recipe.data.name, data.names()),
            ("data.unlabelled.name", "rest" if other is None else other.name, ("rest", *data.names())),
        ):
            if name not in known:
                raise RecipeError(f"{key}: no {name!r}{nearest(name, known)}")
        with _named("model.name"):
            nets.zoo.check_name(recipe.model.name)


def check(
    recipe: Recipe,
    images: Images,
    *,
    teacher_recipe: Recipe | None = None,
    teacher_images: Images | None = None,
    processes: int = 1,
) -> tuple[Adapted, ...]:
    """Find out before work starts whether student, teacher and losses fit each other and the images.

    Both networks are built, two images of noise go through them, and the losses compare what comes.

    Args:
        recipe: the student's recipe.
        images: the student's.
        teacher_recipe: its teacher's recipe; None without a teacher, or where it is a checkpoint.
        teacher_images: those of the teacher's recipe.
        processes: how many work on each batch.

    Returns:
        The taps of the student that an adapter will lift to the teacher's width.

    Raises:
        RecipeError: an unknown network or tap, taps of different number or without positions, a different number of
            classes, or images of another size than the teacher's.
        ShapeError: the losses cannot compare the maps.
        CheckpointError: the teacher's file is missing or damaged.
    """
    student = model(recipe, images)
    if recipe.train.batch_size == recipe.train.accumulate * processes:
        _check_single(student, images)
    with recomputing(recipe, student):
        pass
    criteria = losses(recipe)
    _check_relations(recipe, criteria, processes=processes)
    if not criteria:
        _trace(student, recipe.model.taps or (), images, key="model.taps" if recipe.model.taps else "model")
        return ()
    helper = _untrained_teacher(recipe, images, teacher_recipe, teacher_images)
    if reads_maps(criteria):
        names, other = taps(recipe), teacher_taps(recipe, teacher_recipe)
        maps, logits = _trace(student, names, images, key="model.taps")
        teacher_maps, teacher_logits = _trace(helper, other, images, key="teacher.taps")
        _check_taps(recipe, names, maps, other, teacher_maps)
        _check_storable(recipe, criteria, maps, teacher_maps)
    else:
        # Taps that are named but not compared must be there all the same: the report looks at them.
        logits = _trace(student, recipe.model.taps or (), images, key="model.taps")[1]
        assert recipe.teacher is not None
        teacher_logits = _trace(helper, recipe.teacher.taps or (), images, key="teacher.taps")[1]
    if any(criterion.reads == "logits" for criterion in criteria.values()):
        _check_classes(recipe, images, teacher_images, logits, teacher_logits)
    with _named("loss"):
        whole = distiller(recipe, student, helper, teacher_recipe=teacher_recipe)
        adapted = whole.prepare(noise(images))
        whole(noise(images))
    return adapted


def _check_storable(
    recipe: Recipe, criteria: Mapping[str, TransferLoss], maps: list[Tensor], teacher_maps: list[Tensor]
) -> None:
    """Refuse to store what a loss needs of the teacher where that is more than can be read in place of running it."""
    if recipe.teacher is None or not recipe.teacher.stored:
        return
    for name, criterion in criteria.items():
        if isinstance(criterion, FSPLoss | FitNetLoss) and not isinstance(criterion, StorableLoss):
            size = 2 * criterion.teacher_numbers(teacher_maps, maps)
            raise RecipeError(
                f"teacher.views: {name} needs {size:,} bytes of the teacher for each view of an image, too much "
                "to store; take teacher.live=true, teacher.views=null, or another method, e.g. svd"
            )


def _check_classes(
    recipe: Recipe, images: Images, teacher_images: Images | None, logits: Tensor, teacher_logits: Tensor
) -> None:
    """Refuse a teacher of other classes, or of the same in another order, where outputs are compared one by one."""
    assert recipe.teacher is not None
    told = f"it tells {teacher_logits.shape[-1]} classes apart and the student {logits.shape[-1]}"
    if teacher_images is None:
        theirs = json.loads(nets.spec(str(recipe.teacher.checkpoint)).get("classes", "null"))
    else:
        theirs = teacher_images.train.classes
    pairs = () if theirs is None else zip(theirs, images.train.classes, strict=False)
    other = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if logits.shape == teacher_logits.shape and other is None:
        return
    if logits.shape == teacher_logits.shape and other is not None:
        told = f"its class {other[0]!r} stands where the student's {other[1]!r} does"
    raise RecipeError(
        f"teacher: {told}, but soft targets compare them one by one; take a teacher of the same classes, or "
        "loss.name=svd"
    )


@contextmanager
def recomputing(recipe: Recipe, student: nn.Module) -> Iterator[None]:
    """Let the student recompute its activations for a while, where the recipe says so.

    Args:
        recipe: ``train.recompute`` is read.
        student: its network.

    Raises:
        RecipeError: the network has no blocks for it.
    """
    if not recipe.train.recompute:
        yield
        return
    with ExitStack() as stack:
        with _named("train.recompute"):
            stack.enter_context(nets.recompute_activations(student))
        yield


def _check_single(network: nn.Module, images: Images) -> None:
    """Refuse to train on one image at a time where batch norm would have one number a channel."""
    try:
        network.train()(torch.rand(1, *images.shape))
    except ValueError as error:
        raise RecipeError(
            f"train.batch_size: batch norm cannot learn from 1 image ({error}); take at least 2 for each process and "
            "part"
        ) from error


def _check_relations(recipe: Recipe, criteria: Mapping[str, TransferLoss], *, processes: int) -> None:
    """Refuse to compare images with each other where so few are worked on together that nothing is left to learn.

    Distances are in units of their mean: those of two images are the same in any network.
    """
    if not any(isinstance(criterion, RelationalLoss) for criterion in criteria.values()):
        return
    unlabelled = recipe.data.unlabelled
    added = 0 if unlabelled is None else unlabelled.batch_size or recipe.train.batch_size
    together = (recipe.train.batch_size + added) // (recipe.train.accumulate * processes)
    if together < _LEAST_RELATED:
        raise RecipeError(
            f"train.batch_size: relational compares the images of each process and part with each other, and here "
            f"that is {together}; take at least {_LEAST_RELATED} for each"
        )


def _untrained_teacher(
    recipe: Recipe, images: Images, teacher_recipe: Recipe | None, teacher_images: Images | None
) -> nn.Module:
    """Make the teacher as it will be, its weights aside where they are yet to be trained."""
    assert recipe.teacher is not None
    if teacher_recipe is None:
        path = Path(str(recipe.teacher.checkpoint))
        with _named("teacher.checkpoint"):
            network, spec = teacher(path, images), nets.spec(path)
        size, home = spec.get("image_size"), spec.get("data")
        key = ""
    else:
        assert teacher_images is not None
        with _named("teacher.recipe"):
            network = model(teacher_recipe, teacher_images)
        size, home = teacher_images.shape[1], teacher_recipe.data.name
        key = " or, for both, teacher.overrides.data.image_size too"
    # A teacher of another data set may have seen images of another size: its taps serve all the same.
    if size is not None and home == recipe.data.name and int(size) != images.shape[1]:
        raise RecipeError(
            f"data.image_size: the student's images are {images.shape[1]} pixels high, the teacher's {size}; "
            f"take data.image_size={size}{key}"
        )
    return network


def noise(images: Images) -> Tensor:
    """Return four images of noise, the same each time: a blank image's maps would be zero and set aside by the loss."""
    return torch.rand(4, *images.shape, generator=torch.Generator().manual_seed(0))


def _trace(
    network: nn.Module, names: tuple[str, ...], images: Images, *, key: str = "model"
) -> tuple[list[Tensor], Tensor]:
    with _named(key), torch.no_grad():
        if not names:
            return [], _logits(network, images)
        with nets.Taps(network, names) as recorder:
            logits = _logits(network, images)
            return recorder.collect(), logits


def _logits(network: nn.Module, images: Images) -> Tensor:
    try:
        logits: Tensor = network.eval()(noise(images))
    except (RuntimeError, AssertionError) as error:  # of a network of another library, which knows one size alone
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        size = " × ".join(map(str, images.shape))
        raise RecipeError(f"the network cannot take images of {size} ({reason}); change data.image_size") from error
    return logits


def _check_taps(
    recipe: Recipe, names: tuple[str, ...], maps: list[Tensor], other: tuple[str, ...], teacher_maps: list[Tensor]
) -> None:
    if len(maps) != len(teacher_maps):
        raise RecipeError(
            f"model.taps: the student has {len(maps)} taps and the teacher {len(teacher_maps)}; "
            "they are paired in order: give model.taps and teacher.taps of the same number"
        )
    relating = [loss.name for loss in recipe.loss if loss.name in ("svd", "fsp")]
    if relating and len(maps) < 2:
        raise RecipeError(
            f"model.taps: {relating[0]} relates neighbouring taps, expected at least 2, got {list(names)}"
        )
    spatial = [loss.name for loss in recipe.loss if loss.name in ("svd", "fsp", "attention")]
    for name, ours, its, theirs in zip(names, maps, other, teacher_maps, strict=True):
        if spatial and all(m.ndim == 4 and m.shape[2:].numel() == 1 for m in (ours, theirs)):
            raise RecipeError(
                f"model.taps: {name!r} of the student and {its!r} of the teacher have a single position, (B, "
                f"{ours.shape[1]}, 1, 1), in which {spatial[0]} finds nothing to compare; leave the tap out in "
                "model.taps and teacher.taps, or take a larger data.image_size"
            )
