"""The settings of a recipe's images: which, how many, and how they are varied. Knows no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from svdistill.choices import MAX_BATCH, MAX_COUNT
from svdistill.errors import brief
from svdistill.recipes.base import Fraction, Settings, switched

Classes = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
# Degrees; beyond half of a quarter turn an image is nearer to the next one.
_MOST_ROTATION = 45.0
# Of a box's sides.
MAX_RATIO = 1000.0


def _in_order(most: float) -> BeforeValidator:
    """Return what checks a pair of numbers above 0 and at most ``most``, the smaller first."""

    def check(value: Any) -> Any:
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
            raise ValueError(f"expected a list of two numbers, the smaller first; got {brief(value)}")
        if not 0 < value[0] <= value[1] <= most:
            raise ValueError(
                f"expected two numbers above 0 and at most {most:g}, the smaller first; got {brief(value)}"
            )
        return float(value[0]), float(value[1])

    return BeforeValidator(check)


Area = Annotated[tuple[float, float], _in_order(1.0)]
Ratio = Annotated[tuple[float, float], _in_order(MAX_RATIO)]


def same_folder(one: str | None, other: str | None) -> bool:
    """Tell whether two paths lead to one folder, links followed; none is the current one."""
    return Path(one or "").resolve() == Path(other or "").resolve()


class ResizedCropSettings(Settings):
    """A box of each image, enlarged to the whole size.

    Attributes:
        scale: least and greatest area of the box, as parts of the image's.
        ratio: least and greatest ratio of the box's width to its height.
    """

    scale: Area = (0.08, 1.0)
    ratio: Ratio = (3 / 4, 4 / 3)


class ErasingSettings(Settings):
    """A box that is erased: it shows the mean colour of the training images.

    Attributes:
        probability: that an image has one.
        area: least and greatest area of the box, as parts of the image's.
        ratio: least and greatest ratio of the box's width to its height.
    """

    probability: float = Field(default=0.5, gt=0, le=1)
    area: Area = (0.02, 0.33)
    ratio: Ratio = (0.3, 3.3)


class ColourJitterSettings(Settings):
    """How far the colours of each image vary, in this order.

    Attributes:
        brightness: by a factor of 1 ± this, not below 0.
        contrast: the same of the distance to the image's mean grey.
        saturation: the same of the distance to each pixel's own grey; only of images with three channels.
        hue: by ± this part of the colour circle; only of images with three channels.
    """

    brightness: float = Field(default=0.0, ge=0, le=10)
    contrast: float = Field(default=0.0, ge=0, le=10)
    saturation: float = Field(default=0.0, ge=0, le=10)
    hue: float = Field(default=0.0, ge=0, le=0.5)

    @model_validator(mode="after")
    def _varies(self) -> Self:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            raise ValueError("all are 0, so that nothing varies; give for instance brightness=0.4, or take null")
        return self


class AugmentSettings(Settings):
    """How the training images vary at random.

    Attributes:
        flip: mirror half of the images left to right; refused for data sets where a mirror image is another class.
        rotation: rotate by up to this many degrees to either side.
        shift: move by up to this many pixels in each direction, the edge filled with zeros.
        resized_crop: show a random box of each image, enlarged to the whole size, before it is mirrored, rotated and
            moved: ``true``, or its settings; null = the whole image.
        erasing: erase a random box of some images, after all else: ``true``, or its settings; null = of none.
        colour_jitter: vary brightness, contrast, saturation and hue, after all that moves pixels; null = not.
        trivial_augment: change each image in one more way, chosen among 14 (shear, shift, rotation by up to 135°,
            contrast, …), as strongly as chosen among 31 strengths: TrivialAugment, wide.
        mixup: mix each image with another one of its batch, and their labels, by MixUp with this α; null = not.
        cutmix: put a box of another image of the batch into each, and mix their labels, by CutMix with this α; null =
            not. With both, each batch takes one of them by chance.
    """

    flip: bool = False
    rotation: float = Field(default=0.0, ge=0, le=180)
    shift: int = Field(default=0, ge=0, le=4096)
    resized_crop: ResizedCropSettings | None = None
    erasing: ErasingSettings | None = None
    colour_jitter: ColourJitterSettings | None = None
    trivial_augment: bool = False
    mixup: float | None = Field(default=None, gt=0, le=1000)
    cutmix: float | None = Field(default=None, gt=0, le=1000)

    @field_validator("resized_crop", "erasing", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return switched(value)

    @property
    def varies(self) -> bool:
        """Whether any image is changed, each by itself."""
        return any(
            (
                self.flip,
                self.rotation,
                self.shift,
                self.resized_crop,
                self.erasing,
                self.colour_jitter,
                self.trivial_augment,
            )
        )

    @property
    def mixes(self) -> str | None:
        """Which setting mixes images, the first of them; None where none does."""
        given = {"mixup": self.mixup, "cutmix": self.cutmix}
        return next((name for name, alpha in given.items() if alpha is not None), None)


class UnlabelledSettings(Settings):
    """Images without labels, for the transfer task; each step takes some beside the labelled ones.

    Attributes:
        name: ``rest``, the training images whose labels ``data.train_size`` leaves out, or a data set's name.
        root: folder that holds its files.
        size: how many to use, chosen at random; null = all.
        batch_size: how many join each step; null = as many as there are labelled ones.
    """

    name: str = "rest"
    root: str | None = None
    size: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)

    @model_validator(mode="after")
    def _rest_is_elsewhere(self) -> Self:
        if self.name == "rest" and self.root is not None:
            raise ValueError(
                "root: 'rest' are images of the labelled ones' folder; give data.unlabelled.name=image-folder too, or "
                "take data.unlabelled.root=null"
            )
        return self


class DataSettings(Settings):
    """The images.

    Attributes:
        name: a data set's name, e.g. ``digits``.
        root: folder that holds its files; null = the usual folders, then a download.
        classes: use only these classes, by name: a list, or the path of a text file with one a line; null = all.
        task: what is learnt of the images: their ``classes``, or by ``rotation``, without their labels, which way each
            was turned: it is there four times, turned by 0°, 90°, 180° and 270°, in training and test images alike.
        held_out: measure on this part of the training images, which is left out of training, in place of the test
            images; the same part of each class, and the same images for every seed and the teacher. null = none.
        train_size: how many labelled training images to use, equally many of each class; null = all.
        validation: choose the best epoch by this part of the labelled training images, the same part of each class,
            which is left out of training: they are measured after each epoch in place of the test images (or those held
            out), which are measured once, at the end, with the weights of the best epoch. null = none.
        image_size: resize once to this many pixels a side; null = as they are.
        channels: 1 = grey, 3 = colour; null = as they are.
        background: what shows through where an image file is transparent: ``white`` or ``black``.
        augment: how the training images vary at random.
        unlabelled: images without labels for the transfer task, or null.
    """

    name: str
    root: str | None = None
    classes: str | Classes | None = None
    task: Literal["classes", "rotation"] = "classes"
    held_out: Fraction | None = None
    train_size: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    validation: Fraction | None = None
    image_size: int | None = Field(default=None, ge=1, le=4096)
    channels: Literal[1, 3] | None = None
    background: Literal["white", "black"] = "white"
    augment: AugmentSettings = AugmentSettings()
    unlabelled: UnlabelledSettings | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_classes(cls, value: Any) -> Any:
        """Say in one sentence what classes are: the union's own error has one line for each member."""
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) for item in value):
            numbers = isinstance(value, list | tuple) and any(isinstance(item, int | float) for item in value)
            raise ValueError(
                f"expected a list of class names, or the path of a file with one a line; got {brief(value)}"
                + (""": names that look like numbers need quotes, '["0", "1"]'""" if numbers else "")
            )
        return tuple(value)

    @model_validator(mode="after")
    def _rest_of_something(self) -> Self:
        if self.unlabelled is not None and self.unlabelled.name == "rest" and self.train_size is None:
            raise ValueError("unlabelled: 'rest' are the images that train_size leaves out; give data.train_size too")
        return self

    @model_validator(mode="after")
    def _validates_by_other_images(self) -> Self:
        if self.validation is not None and self.task == "rotation":
            raise ValueError(
                "validation: with task=rotation an image would be trained on one way up and validated on another; take "
                "data.validation=null"
            )
        return self

    @model_validator(mode="after")
    def _warps_keep_the_turn(self) -> Self:
        if self.task != "rotation":
            return self
        if self.augment.flip:
            raise ValueError(
                "augment.flip: task=rotation asks which way an image was turned, and a mirrored one tells 90° as 270°; "
                "take data.augment.flip=false"
            )
        if self.augment.trivial_augment:
            raise ValueError(
                "augment.trivial_augment: task=rotation asks which way an image was turned, and it turns some by up to "
                "135°; take data.augment.trivial_augment=false"
            )
        if self.augment.rotation > _MOST_ROTATION:
            raise ValueError(
                f"augment.rotation: with task=rotation {self.augment.rotation:g}° may look like another quarter turn; "
                f"take at most {_MOST_ROTATION:g}"
            )
        return self

    @property
    def chosen_by_seed(self) -> bool:
        """Whether some of the images are chosen at random, by the seed of the recipe."""
        return self.train_size is not None or (self.unlabelled is not None and self.unlabelled.size is not None)

    @property
    def measured_on(self) -> Literal["test", "held-out"]:
        """Which images the accuracy is of."""
        return "test" if self.held_out is None else "held-out"
