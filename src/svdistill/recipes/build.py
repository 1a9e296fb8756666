"""Settings → objects: the only file that knows both. Each error names the key that is to be changed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from svdistill import data, nets, train
from svdistill.errors import CheckpointError, RecipeError, SvdistillError, nearest
from svdistill.losses import SoftTargetLoss, SVDLoss
from svdistill.recipes.schema import Recipe, SVDLossSettings


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a run.

    Attributes:
        train: the labelled training images, after ``train_size``.
        test: the images to measure with.
        mean: (C,), of all training images in [0, 1], not only the labelled ones, so that a teacher and students of
            every train_size see the same standardized images.
        std: (C,), likewise.
    """

    train: data.ImageSet
    test: data.ImageSet
    mean: Tensor
    std: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Self:
        """Return the same images on another device."""
        return type(self)(
            self.train.to(device), self.test.to(device), mean=self.mean.to(device), std=self.std.to(device)
        )


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key in front of the message of an error that the settings under it cause."""
    try:
        yield
    except SvdistillError as error:
        raise type(error)(f"{key}: {error}") from error


def images(recipe: Recipe) -> Images:
    """Load the images of a recipe onto the CPU.

    Args:
        recipe: its part ``data`` and its seed, which chooses the labelled images, are read.

    Returns:
        The images and their statistics.

    Raises:
        RecipeError: an unknown data set, or a flip where a mirror image is another class.
        DataError: missing or damaged files, or fewer images than asked for.
    """
    settings = recipe.data
    check_names(recipe)
    with _named("data" if settings.root is None else "data.root"):
        dataset = data.load(settings.name, root=settings.root, image_size=settings.image_size)
    if settings.augment.flip and not dataset.flip_allowed:
        raise RecipeError(
            f"data.augment.flip: a mirror image of {settings.name!r} is not of its class; take data.augment.flip=false"
        )
    mean, std = data.channel_statistics(dataset.train.images)
    labelled = dataset.train
    if settings.train_size is not None:
        with _named("data.train_size"):
            labelled = labelled.subset(settings.train_size, seed=recipe.seed)
    if recipe.train.batch_size > len(labelled):
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} is more than the {len(labelled)} training images"
        )
    return Images(labelled, dataset.test, mean, std)


def batches(recipe: Recipe, images: Images) -> data.Batches:
    """Make the endless stream of training batches, on the device of the images.

    Args:
        recipe: its augmentation, batch size and seed are read.
        images: what ``images`` returned, moved to its device.

    Returns:
        The batches, at the start of their first epoch.
    """
    augment = recipe.data.augment
    augmentation = data.Augmentation(flip=augment.flip, rotation=augment.rotation, shift=augment.shift)
    return data.Batches(
        images.train,
        recipe.train.batch_size,
        seed=recipe.seed,
        augmentation=augmentation,
        mean=images.mean,
        std=images.std,
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
        Those of ``teacher.taps``, else of the teacher's recipe, else of its model.

    Raises:
        CheckpointError: the teacher's file is missing or damaged.
    """
    assert recipe.teacher is not None
    if recipe.teacher.taps is not None:
        return recipe.teacher.taps
    if teacher is not None:
        return taps(teacher)
    with _named("teacher.checkpoint"):
        return nets.default_taps(nets.spec(str(recipe.teacher.checkpoint))["name"])


def loss(recipe: Recipe) -> SVDLoss | SoftTargetLoss | None:
    """Make the transfer loss of a recipe; None where it has none."""
    settings = recipe.loss
    if settings is None:
        return None
    if isinstance(settings, SVDLossSettings):
        return SVDLoss(
            rank=settings.rank,
            beta=settings.beta,
            assignment=settings.assignment,
            gradient=settings.gradient,
            reduction=settings.reduction,
        )
    return SoftTargetLoss(temperature=settings.temperature)


def optimizer(recipe: Recipe, student: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe for the student's parameters."""
    settings = recipe.optimizer.model_dump(exclude={"name"})
    return train.make_optimizer(recipe.optimizer.name, student, **settings)


def metadata(recipe: Recipe, images: Images) -> dict[str, str]:
    """Return what a student's file says beside its weights: how to prepare images for it, and what its outputs mean.

    Args:
        recipe: its name and data set are read.
        images: give the classes, the statistics and the size.

    Returns:
        ``recipe``, ``data``, ``image_size``, ``classes``, ``mean`` and ``std``; the last four as JSON.
    """
    return {
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
        for key, name, known in (
            ("data.name", recipe.data.name, data.names()),
            ("model.name", recipe.model.name, nets.names()),
        ):
            if name not in known:
                raise RecipeError(f"{key}: no {name!r}{nearest(name, known)}")


def check(
    recipe: Recipe, images: Images, *, teacher_recipe: Recipe | None = None, teacher_images: Images | None = None
) -> None:
    """Find out before work starts whether student, teacher and loss fit each other and the images.

    Both networks are built, two images of noise go through them, and the outputs of their taps are compared.

    Args:
        recipe: the student's recipe.
        images: the student's.
        teacher_recipe: its teacher's recipe; None without a teacher, or where it is a checkpoint.
        teacher_images: those of the teacher's recipe.

    Raises:
        RecipeError: an unknown network or tap, taps of different number or width, a different number of classes, or
            images of another size than the teacher's.
        CheckpointError: the teacher's file is missing or damaged.
    """
    student = model(recipe, images)
    if recipe.train.batch_size == 1:
        _check_single(student, images)
    criterion = loss(recipe)
    if criterion is None:
        if recipe.model.taps is not None:
            _trace(student, recipe.model.taps, images, key="model.taps")
        return
    helper = _untrained_teacher(recipe, images, teacher_recipe, teacher_images)
    names, other = taps(recipe), teacher_taps(recipe, teacher_recipe)
    maps, logits = _trace(student, names, images, key="model.taps")
    teacher_maps, teacher_logits = _trace(helper, other, images, key="teacher.taps")
    if criterion.reads == "maps":
        _compare(names, maps, other, teacher_maps)
        with _named("loss"):
            criterion(maps, teacher_maps)
    elif logits.shape != teacher_logits.shape:
        raise RecipeError(
            f"teacher: it tells {teacher_logits.shape[-1]} classes apart and the student {logits.shape[-1]}, but this "
            "loss compares them one by one; take a teacher of the same classes, or loss.name=svd"
        )


def _check_single(network: nn.Module, images: Images) -> None:
    """Refuse to train on one image at a time where batch norm would have one number a channel."""
    try:
        network.train()(torch.rand(1, *images.shape))
    except ValueError as error:
        raise RecipeError(
            f"train.batch_size: batch norm cannot learn from 1 image ({error}); take at least 2"
        ) from error


def _untrained_teacher(
    recipe: Recipe, images: Images, teacher_recipe: Recipe | None, teacher_images: Images | None
) -> nn.Module:
    """Make the teacher as it will be, its weights aside where they are yet to be trained."""
    assert recipe.teacher is not None
    if teacher_recipe is None:
        path = Path(str(recipe.teacher.checkpoint))
        with _named("teacher.checkpoint"):
            network, size = teacher(path, images), nets.spec(path).get("image_size")
        key = ""
    else:
        assert teacher_images is not None
        with _named("teacher.recipe"):
            network, size = model(teacher_recipe, teacher_images), teacher_images.shape[1]
        key = " or, for both, teacher.overrides.data.image_size too"
    if size is not None and int(size) != images.shape[1]:
        raise RecipeError(
            f"data.image_size: the student's images are {images.shape[1]} pixels high, the teacher's {size}; "
            f"take data.image_size={size}{key}"
        )
    return network


def _trace(network: nn.Module, names: tuple[str, ...], images: Images, *, key: str) -> tuple[list[Tensor], Tensor]:
    # Noise, not a blank image: a map of zeros would be set aside by the loss.
    noise = torch.rand(2, *images.shape, generator=torch.Generator().manual_seed(0))
    with _named(key), torch.no_grad(), nets.Taps(network.eval(), names) as recorder:
        logits = network(noise)
        return recorder.collect(), logits


def _compare(names: tuple[str, ...], maps: list[Tensor], other: tuple[str, ...], teacher_maps: list[Tensor]) -> None:
    if len(maps) != len(teacher_maps):
        raise RecipeError(
            f"model.taps: the student has {len(maps)} taps and the teacher {len(teacher_maps)}; "
            "they are paired in order: give model.taps and teacher.taps of the same number"
        )
    if len(maps) < 2:
        raise RecipeError(f"model.taps: the loss relates neighbouring taps, expected at least 2, got {list(names)}")
    for name, ours, its, theirs in zip(names, maps, other, teacher_maps, strict=True):
        if _width(ours) != _width(theirs):
            raise RecipeError(
                f"model.width: the student's tap {name!r} has {_width(ours)} channels and the teacher's {its!r} "
                f"{_width(theirs)}; there is no adapter between unequal widths yet: choose the same width for both"
            )


def _width(features: Tensor) -> int:
    """Channels of (B, C, H, W) and (B, D), feature size of (B, N, D)."""
    return int(features.shape[1] if features.ndim == 4 else features.shape[-1])
