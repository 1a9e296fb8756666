"""A recipe's images: loaded, put together into batches, varied, and made up for a check."""

import json
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from svdistill import data, nets, training
from svdistill.choices import IMAGE_FOLDER
from svdistill.data.folder import test_folder
from svdistill.data.listing import Reach, reach
from svdistill.errors import OptionError, RecipeError
from svdistill.recipes import normalization
from svdistill.recipes.data import AugmentSettings, DataSettings, UnlabelledSettings, same_folder
from svdistill.recipes.naming import check_names, named
from svdistill.recipes.schema import Recipe

# Whole data sets with their mean and deviation, by the settings that they were loaded with.
Loaded = dict[str, tuple[data.Dataset, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a run.

    Attributes:
        train: the labelled training images, after ``held_out``, ``train_size`` and ``validation``.
        test: the images to measure with: the test images, or those that are held out.
        mean: (C,), of all training images in [0, 1] that are not held out, not only the labelled ones, so that a
            teacher and students of every train_size see the same standardized images; or what the recipe says, or the
            weights that its network begins with.
        std: (C,), of the same images as the mean.
        validation: the part of the labelled training images that chooses the best epoch, or None.
        unlabelled: images for the transfer task alone, or None.
        standardized_by: the fingerprint of the images that mean and deviation are of; None where these are the labelled
            ones.
    """

    train: data.ImageSource
    test: data.ImageSource
    mean: Tensor
    std: Tensor
    unlabelled: data.ImageSource | None = None
    standardized_by: str | None = None
    validation: data.ImageSource | None = None

    @property
    def watched(self) -> data.ImageSource:
        """The images to look at before the end: those of the validation, so that the test images stay unseen."""
        return self.test if self.validation is None else self.validation

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Self:
        """Return the same images on another device; those in memory that a GPU has no room for stay where they are."""
        device = torch.device(device)
        if not training.has_room_for(self.bytes, device):
            return self
        return replace(
            self,
            train=self.train.to(device),
            test=self.test.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
            unlabelled=None if self.unlabelled is None else self.unlabelled.to(device),
            validation=None if self.validation is None else self.validation.to(device),
        )

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What is in the images of each set that decides what a run comes to; taken once, so before it begins."""
        found = {name: data.fingerprint(one) for name, one in self.sets.items()}
        return found if self.standardized_by is None else {**found, "statistics": self.standardized_by}

    @property
    def bytes(self) -> int:
        """What the pixels of the images in memory take."""
        return sum(one.images.nbytes for one in self.sets.values() if isinstance(one, data.ImageSet))

    @property
    def sets(self) -> dict[str, data.ImageSource]:
        """The sets that there are, by name: ``train``, ``test``, ``unlabelled``, ``validation``."""
        named = {"train": self.train, "test": self.test, "unlabelled": self.unlabelled, "validation": self.validation}
        return {name: one for name, one in named.items() if one is not None}


def load_images(recipe: Recipe, *, loaded: Loaded | None = None) -> Images:
    """Load the images of a recipe onto the CPU.

    Args:
        recipe: its part ``data`` and its seed, which chooses the labelled images, are read, and of its part ``model``
            what decides mean and deviation.
        loaded: keeps whole data sets with their statistics for further calls, so that student and teacher share one.

    Returns:
        The images and their statistics.

    Raises:
        RecipeError: an unknown data set, a flip where a mirror image is another class, or a jitter of colours that the
            images do not have.
        DataError: missing or damaged files, or fewer images than asked for.
    """
    check_names(recipe)
    settings = _sized(recipe)
    dataset, *found = _load(settings, {} if loaded is None else loaded)
    mean, std = normalization.of_student(recipe.model, dataset.train.shape[0], (found[0], found[1]))
    check_augmentation(settings, dataset)
    labelled, standardized_by = dataset.train, None
    if settings.train_size is not None:
        with named("data.train_size"):
            labelled = labelled.subset(settings.train_size, seed=recipe.seed)
    validation = None
    if settings.validation is not None:
        with named("data.validation"):
            labelled, validation = data.split(labelled, settings.validation)
    if labelled is not dataset.train:
        standardized_by = data.fingerprint(data.measured(dataset.train))
    if recipe.train.batch_size > len(labelled):
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} is more than the {len(labelled)} training images"
        )
    return Images(labelled, dataset.test, mean, std, _unlabelled(recipe, dataset), standardized_by, validation)


def _sized(recipe: Recipe) -> DataSettings:
    """Return the settings of the images, of the size that a network from outside was made for where nothing says it."""
    settings, network = recipe.data, recipe.model
    own_size = data.describe(settings.name).shape is not None
    if settings.image_size is not None or own_size or not nets.foreign.is_of_library(network.name):
        return settings
    with named("model"):
        size = normalization.configured(network, settings.channels or 3).size
    return settings if size is None else settings.model_copy(update={"image_size": size[0]})


def _load(settings: DataSettings, loaded: Loaded) -> tuple[data.Dataset, Tensor, Tensor]:
    which = settings.model_dump(include={"name", "root", "image_size", "classes", "channels", "background"})
    key = json.dumps([which, settings.held_out, settings.task])
    if key not in loaded:
        with named("data" if settings.root is None else "data.root"):
            dataset = data.load(**which)
        dataset = _without_held_out(dataset, settings)
        # Afterwards, or else an image could be trained on turned one way and measured on turned another way.
        if settings.task == "rotation":
            with named("data.task"):
                dataset = data.rotation_task(dataset)
        loaded[key] = dataset, *data.channel_statistics(dataset.train)
    return loaded[key]


def _without_held_out(dataset: data.Dataset, settings: DataSettings) -> data.Dataset:
    if settings.held_out is None:
        return dataset
    with named("data.held_out"):
        return data.hold_out(dataset, settings.held_out)


def _unlabelled(recipe: Recipe, dataset: data.Dataset) -> data.ImageSource | None:
    """Load the images without labels, brought to size and channels of the labelled ones."""
    settings = recipe.data.unlabelled
    if settings is None:
        return None
    with named("data.unlabelled"):
        if settings.name == "rest":
            assert recipe.data.train_size is not None
            found: data.ImageSource = dataset.train.rest(recipe.data.train_size, seed=recipe.seed)
        else:
            channels, height, _ = dataset.train.shape
            same = _same_set(settings, recipe.data)
            if same and recipe.data.validation is not None:
                raise RecipeError(
                    f"the images of {settings.name} hold those of data.validation; take data.unlabelled.name=rest with "
                    "a data.train_size, or data.validation=null"
                )
            if not same:
                _check_apart(settings, recipe.data)
            load = data.load if same else data.load_unlabelled
            others = load(
                settings.name,
                root=settings.root,
                image_size=height,
                channels=channels,
                background=recipe.data.background,
            )
            found = _without_held_out(others, recipe.data).train if isinstance(others, data.Dataset) else others
        found = found.unlabelled()
        if settings.size is not None:
            found = found.subset(settings.size, seed=recipe.seed)
        wanted = settings.batch_size or recipe.train.batch_size
        if wanted > len(found):
            raise RecipeError(f"{wanted} images a step are more than the {len(found)} there are; lower batch_size")
    return found


def _same_set(other: UnlabelledSettings, settings: DataSettings) -> bool:
    """Tell whether images without labels come from the data set of the labelled ones, so that some may be held out."""
    if other.name != settings.name:
        return False
    chosen_by_root = data.describe(other.name).shape is None
    return not chosen_by_root or same_folder(other.root, settings.root)


def _check_apart(other: UnlabelledSettings, settings: DataSettings) -> None:
    """Refuse a folder that holds images of the labelled ones' tree which are not to be trained on."""
    if not other.name == settings.name == IMAGE_FOLDER or other.root is None:  # loading asks for a folder
        return
    theirs, ours = (Path(root or "").resolve() for root in (other.root, settings.root))
    theirs = theirs / "train" if (theirs / "train").is_dir() else theirs
    reached = reach(theirs) if theirs.is_dir() else None  # loading says of one that is not there
    left_out = next((key for key in ("held_out", "validation") if getattr(settings, key) is not None), None)
    if left_out and _overlap(theirs, ours / "train", reached):
        raise RecipeError(
            f"the images of {other.root} hold those of data.{left_out}; take images that lie elsewhere, "
            f"data.unlabelled.name=rest with a data.train_size, or data.{left_out}=null"
        )
    if _overlap(theirs, tested := test_folder(ours).resolve(), reached):
        raise RecipeError(
            f"the images of {other.root} hold the test images, those in {tested}, which no training may see; take "
            "images that lie elsewhere"
        )


def _overlap(one: Path, other: Path, reached: Reach | None) -> bool:
    """Tell whether one folder is the other, or lies in it, or whether links lead from either to images of both."""
    if one == other or one in other.parents or other in one.parents:
        return True
    return reached is not None and reached.meets(reach(other))


def batches(recipe: Recipe, images: Images, *, shard: data.Shard | None = None) -> data.Batches | data.Mixed:
    """Make the endless stream of training batches, on the device of the images, those without labels beside the others.

    Args:
        recipe: its augmentation, mixing, views, batch size and seed are read.
        images: what ``load_images`` returned, moved to its device.
        shard: the shard of each batch that this process works on; None = the whole batch.

    Returns:
        The batches, at the start of their first epoch.
    """
    shard, fixed = shard or data.Shard(), fixed_views(recipe)
    make = partial(
        data.Batches,
        augmentation=augmentation(recipe.data.augment),
        mean=images.mean,
        std=images.std,
        views=fixed,
        shard=shard,
        mixing=mixing(recipe),
        # On a CPU the first layer reads contiguous images as fast.
        channels_last=recipe.train.channels_last and images.train.device.type == "cuda",
    )
    labelled = make(images.train, recipe.train.batch_size, seed=recipe.seed)
    settings = recipe.data.unlabelled
    if images.unlabelled is None or settings is None:
        return labelled
    size = settings.batch_size or recipe.train.batch_size
    # Another seed: the two streams must not draw the same warps.
    others = make(images.unlabelled, size, seed=(recipe.seed + 1) % 2**32, first=len(images.train))
    return data.Mixed(labelled, others)


def check_augmentation(settings: DataSettings, dataset: data.Dataset) -> None:
    """Make sure that the images of a data set can be varied as a recipe asks for.

    Raises:
        RecipeError: a flip where a mirror image is another class, or a jitter of colours that the images do not have.
    """
    if settings.augment.flip and not dataset.flip_allowed:
        raise RecipeError(
            f"data.augment.flip: a mirror image of {settings.name!r} is not of its class; take data.augment.flip=false"
        )
    try:
        augmentation(settings.augment).check(dataset.train.shape[0])
    except OptionError as error:
        raise RecipeError(f"data.augment.{error}") from error


def augmentation(settings: AugmentSettings) -> data.Augmentation:
    """Return how far the training images of a recipe are varied, each by itself."""
    crop, erasing, jitter = settings.resized_crop, settings.erasing, settings.colour_jitter
    return data.Augmentation(
        flip=settings.flip,
        rotation=settings.rotation,
        shift=settings.shift,
        resized_crop=None if crop is None else data.ResizedCrop(**crop.model_dump()),
        erasing=None if erasing is None else data.Erasing(**erasing.model_dump()),
        trivial_augment=settings.trivial_augment,
        colour_jitter=None if jitter is None else data.ColourJitter(**jitter.model_dump()),
    )


def mixing(recipe: Recipe) -> data.Mixing | None:
    """Return how the training images of a recipe are mixed, or None."""
    settings = recipe.data.augment
    return data.Mixing(mixup=settings.mixup, cutmix=settings.cutmix) if settings.mixes else None


def fixed_views(recipe: Recipe) -> data.Views | None:
    """Return the fixed variants of the training images that a recipe asks for, or None.

    They do not depend on its seed, so that students of several seeds share what is stored of their teacher.
    """
    count = None if recipe.teacher is None else recipe.teacher.views
    return None if count is None else data.Views(count=count)


def noise(images: Images) -> Tensor:
    """Return four images of noise, the same each time: a blank image's maps would be zero and set aside by the loss."""
    return torch.rand(4, *images.shape, generator=torch.Generator().manual_seed(0))
