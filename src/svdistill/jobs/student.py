"""A trained network with all that its file says of how to use it."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn

from svdistill import data, nets
from svdistill.data.decoding import Pixels, squared
from svdistill.data.files import BACKGROUNDS, check_background
from svdistill.data.sets import check_image_size
from svdistill.errors import CheckpointError, DataError, OptionError, ShapeError, SvdistillWarning
from svdistill.jobs.run import Run
from svdistill.nets.outputs import find_logits
from svdistill.recipes import weights
from svdistill.recipes.data import same_folder
from svdistill.runs import only_run

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Student:
    """A trained network and how to use it, in plain values.

    Attributes:
        file: its ``student.safetensors``.
        network: in eval mode; standardized images (B, C, H, W) to logits (B, classes).
        name: of the network, as `nets.create` knows it.
        classes: what its outputs mean, in order.
        image_size: height and width of its images in pixels; None where its file does not say.
        channels: of its images: 1 = grey, 3 = colour.
        mean: of each channel, in units where white is 1; subtracted from an image.
        std: of each channel, in the same units; the image is divided by it.
        background: ``white`` or ``black``, what shows through where an image is transparent.
        trained_on: the data set; None where its file does not say.
        spec: all that its file says, as `nets.spec` returns it.
    """

    file: Path
    network: nn.Module
    name: str
    classes: tuple[str, ...]
    image_size: int | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: str
    trained_on: str | None
    spec: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_code: bool = False) -> Self:
        """Read a trained network, onto the CPU; no code from the file runs.

        Args:
            path: a run's folder, or its ``student.safetensors``.
            allow_code: whether the code that the network is made of, a class of somebody's own, may be imported and
                run.

        Raises:
            DataError: no such run, or it has not finished.
            CheckpointError: the file is missing, damaged or does not say how its images are prepared.
            OptionError: the network is made of code, which may not run.
        """
        file = student_file(path)
        network, spec = nets.load(file, allow_code=allow_code), nets.spec(file)
        mean, std = weights.statistics(file, spec)
        if not len(mean) == len(std) == spec["in_channels"]:
            raise CheckpointError(
                f"{file} has {len(mean)} means and {len(std)} deviations for {spec['in_channels']} channels; save the "
                "network again"
            )
        size = weights.told(file, spec, "image_size")
        if size is None:  # a network of a library may want one size of square
            wanted = set(weights.told(file, spec, "input_size") or ())
            size = wanted.pop() if len(wanted) == 1 else None
        if size is not None:
            check_image_size(size)
        classes = weights.told(file, spec, "classes") or tuple(map(str, range(spec["num_classes"])))
        if len(classes) != spec["num_classes"]:
            raise CheckpointError(
                f"{file} names {len(classes)} classes for {spec['num_classes']} outputs; save the network again"
            )
        background = spec.get("background", "white")
        check_background(background)
        return cls(
            file=file,
            network=network,
            name=spec["name"],
            classes=classes,
            image_size=size,
            channels=spec["in_channels"],
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            background=background,
            trained_on=spec.get("data"),
            spec=spec,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image; CheckpointError where the file does not say how large it is."""
        if self.image_size is None:
            raise CheckpointError(f"{self.file} does not say how large its images are; give a file of a run")
        return self.channels, self.image_size, self.image_size

    def transform(self, image: "str | os.PathLike[str] | Image | Pixels") -> Tensor:
        """Prepare a picture for the network, as the images that it was trained and measured with.

        It is scaled until it just covers the square, whose middle is kept, and standardized.

        Args:
            image: a file; a picture of Pillow, of any kind and size, which for a large JPEG differs by a few grey
                levels from its file, of which no more is decoded than is needed; or an array (H, W), (H, W, 1) or
                (H, W, 3), uint8.

        Returns:
            (C, H, W), float32, for `network` once there is a batch of them.

        Raises:
            DataError: the file cannot be read, the picture is too large, or nothing says what its numbers mean.
            CheckpointError: the file does not say how large the images are.
            OptionError: the network takes images of other than 1 or 3 channels.
            ShapeError: an array of another shape or type.
        """
        from PIL import Image

        channels, size, background = self.picture_form()
        if isinstance(image, str | os.PathLike):
            pixels = _read(Path(image), size, channels, background)
        else:
            picture = image if isinstance(image, Image.Image) else Image.fromarray(_checked(image))
            pixels = squared(picture, size, channels, background)
        return self.standardize(torch.from_numpy(pixels.copy())[None])[0]

    def standardize(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation.

        Args:
            images: (B, C, H, W), uint8.

        Returns:
            The same shape, float32.
        """
        return data.standardize(images, *self._statistics)

    def logits(self, images: Tensor) -> Tensor:
        """Run the network, in 32-bit precision, where its weights are.

        Args:
            images: (B, C, H, W), standardized.

        Returns:
            (B, classes), float32.
        """
        with torch.inference_mode():
            return find_logits(self.network(images)).float()

    def not_finite(self) -> CheckpointError:
        """Return the error for a network that answers with NaN or infinity."""
        return CheckpointError(
            f"{self.file} gives values that are not finite, so its weights are not to be trusted; train it again"
        )

    def picture_form(self) -> tuple[int, int, int]:
        """Return what `data.decoding.squared` has to know to make an image of a picture.

        Returns:
            Channels, image size, and the grey, 0 to 255, that shows through where a picture is transparent.

        Raises:
            CheckpointError: the file does not say how large the images are.
            OptionError: the network takes images of other than 1 or 3 channels.
        """
        if self.channels not in (1, 3):
            raise OptionError(
                f"{self.name} of {self.file} takes images of {self.channels} channels, and pictures have 1 or 3; give "
                "its network a tensor instead"
            )
        channels, size, _ = self.shape
        return channels, size, BACKGROUNDS[self.background]

    def test_images(
        self, name: str | None = None, root: str | os.PathLike[str] | None = None, *, tell_others: bool = True
    ) -> data.ImageSource:
        """Load the test images of a data set, prepared as when the network was saved but for `standardize`.

        Classes are numbered as the network's where the data set has the same; a warning tells of others.

        Args:
            name: the data set; None = the one that the network was trained on.
            root: folder with its files; None = that of the run, or where they usually are.
            tell_others: whether a warning counts the images of another folder than the run's that are left out,
                because the network does not know their class.

        Raises:
            DataError: there are none, or they do not fit the network.
            CheckpointError: the file does not say what the network was trained on, and no name is given.
            OptionError: an unknown data set.
        """
        name, root = self.data_set(name, root)
        # Of its own data set a run may have chosen a part of the classes.
        own = root is None or _same_place(root, _recorded_root(self.file))
        test = data.load_test(name, root=root, tell_others=tell_others and not own, **self._options(name))
        test = data.turned(test) if self._is_turned else test
        self._check_fits(name, test)
        return self._in_order(name, test)

    def training_images(self, name: str | None = None, root: str | os.PathLike[str] | None = None) -> data.ImageSource:
        """Load the training images of a data set, all of them and unvaried; see `test_images`."""
        name, root = self.data_set(name, root)
        train = data.load(name, root=root, **self._options(name)).train
        train = data.turned(train) if self._is_turned else train
        self._check_fits(name, train)
        return train

    def data_set(
        self, name: str | None = None, root: str | os.PathLike[str] | None = None
    ) -> tuple[str, str | os.PathLike[str] | None]:
        """Return the data set and the folder that `test_images` reads for the same arguments."""
        name = name or self.trained_on
        if name is None:
            raise CheckpointError(f"{self.file} does not say what it was trained on; give the data set's name")
        return name, _recorded_root(self.file) if root is None and name == self.trained_on else root

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean), torch.tensor(self.std)

    @property
    def _is_turned(self) -> bool:
        return self.spec.get("task") == "rotation"

    def _options(self, name: str) -> dict[str, Any]:
        own = name == self.trained_on
        classes = weights.told(self.file, self.spec, "turned" if self._is_turned else "classes") if own else None
        return {
            "image_size": self.image_size,
            "classes": classes,
            "channels": self.channels if own and self.channels in (1, 3) else None,
            "background": self.background,
        }

    def _check_fits(self, name: str, images: data.ImageSource) -> None:
        if images.shape[0] != self.channels or images.num_classes != len(self.classes):
            raise DataError(
                f"{name} has {images.shape[0]} channels and {images.num_classes} classes, but {self.file} takes "
                f"{self.channels} and tells {len(self.classes)} apart; name a data set that fits"
            )

    def _in_order(self, name: str, images: data.ImageSource) -> data.ImageSource:
        """Number the classes of a data set as the network's, which are the same in another order, or warn of others."""
        if self._is_turned or "classes" not in self.spec or images.classes == self.classes:
            return images
        if set(images.classes) == set(self.classes):
            return images.select(self.classes)
        theirs, ours = next(pair for pair in zip(images.classes, self.classes, strict=True) if pair[0] != pair[1])
        warn(
            f"the classes of {name} are not those of {self.file} and are compared by their number: "
            f"{theirs!r} stands there for {ours!r}, for instance; take a data set of the same classes, or rename them",
            SvdistillWarning,
            stacklevel=3,
        )
        return images


def student_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a trained network.

    Args:
        path: a run's folder, a folder with a single run in it, or the file itself.

    Raises:
        DataError: there is no such run, or it has not finished; or there are several in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise DataError(
                f"there is no run and no file {path}; give a run's folder or its {Run(path).student_file.name}"
            )
        return path
    run = Run(only_run(path))
    if not run.finished:
        raise DataError(f"the run {run.path} has not finished; call the same training again to resume it")
    return run.student_file


def _recorded_root(file: Path) -> str | None:
    """Return the data folder in the recipe of the file's run; a file that was moved away from its run has none."""
    run = Run(file.parent)
    return run.recipe.data.root if run.record.exists else None


def _same_place(root: str | os.PathLike[str], recorded: str | None) -> bool:
    return recorded is not None and same_folder(os.fspath(root), recorded)


def _read(file: Path, size: int, channels: int, background: int) -> Pixels:
    try:
        return data.Files(file.parent, (file.name,)).decoded(0, size, channels, background)
    except DataError as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _checked(image: object) -> Pixels:
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise ShapeError(
            f"the picture is {array.dtype} {array.shape}, expected a picture of Pillow, or uint8 (H, W) or (H, W, 3)"
        )
    checked: Pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return checked
