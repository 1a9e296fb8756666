"""All networks at once: what each costs, and where it is tapped."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from svdistill.errors import OptionError
from svdistill.nets.cost import count
from svdistill.nets.published import PUBLISHED, Published
from svdistill.nets.taps import Taps
from svdistill.nets.zoo import create, default_taps, names


class Entry(NamedTuple):
    """A network and its cost.

    Attributes:
        name: as in ``create``.
        parameters: how many there are.
        flops: of one image, 2 × multiply-adds.
        taps: the default taps.
        published: what a paper prints for these very settings, or None.
    """

    name: str
    parameters: int
    flops: int
    taps: tuple[str, ...]
    published: Published | None


class Tap(NamedTuple):
    """A tap and the map that comes out there.

    Attributes:
        name: dotted name of the submodule.
        shape: (C, H, W) of its map for one image, or (D,) of a vector.
    """

    name: str
    shape: tuple[int, ...]


def survey(
    *, image_size: int = 32, num_classes: int = 100, in_channels: int = 3, width: float = 1.0
) -> Iterator[Entry]:
    """Count every network of ``names``, without allocating its weights or drawing random numbers.

    Args:
        image_size: height and width of an image, at least 1.
        num_classes: as in ``create``.
        in_channels: as in ``create``.
        width: as in ``create``.

    Yields:
        One entry for each network, in the order of ``names``.

    Raises:
        OptionError: a setting is out of range.
    """
    _check_size(image_size)
    for name in names():
        with torch.device("meta"):
            network = create(name, num_classes=num_classes, in_channels=in_channels, width=width)
        cost = count(network, (in_channels, image_size, image_size))
        printed = PUBLISHED.get(name)
        same = (image_size, in_channels, width) == (32, 3, 1) and printed is not None and printed.classes == num_classes
        yield Entry(name, *cost, default_taps(name), printed if same else None)


def tap_shapes(
    name: str, *, image_size: int = 32, num_classes: int = 100, in_channels: int = 3, width: float = 1.0
) -> list[Tap]:
    """Return the default taps of a network with the shapes of their maps, without allocating its weights.

    Args:
        name: one of ``names``.
        image_size: height and width of an image, at least 1.
        num_classes: as in ``create``.
        in_channels: as in ``create``.
        width: as in ``create``.

    Returns:
        The taps in order.

    Raises:
        OptionError: the name is unknown, or a setting is out of range.
    """
    _check_size(image_size)
    wanted = default_taps(name)
    with torch.device("meta"), torch.no_grad():
        network = create(name, num_classes=num_classes, in_channels=in_channels, width=width).eval()
        with Taps(network, wanted) as taps:
            network(torch.zeros(1, in_channels, image_size, image_size))
            maps = taps.collect()
    return [Tap(name, tuple(found.shape[1:])) for name, found in zip(wanted, maps, strict=True)]


def _check_size(image_size: int) -> None:
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise OptionError(f"image_size is {image_size!r}, expected a whole number of at least 1")
