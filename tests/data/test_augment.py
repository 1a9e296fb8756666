"""Tests of the warp."""

import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.data import Augmentation, Views, augment
from svdistill.data.augment import draw
from svdistill.data.geometry import pieces_in_cache, warp
from svdistill.errors import OptionError, ShapeError

SIZES = [(1, 1), (2, 2), (3, 3), (8, 8), (9, 9), (28, 28), (31, 31), (32, 32), (8, 5), (5, 8), (7, 12), (225, 224)]


def noise(height: int, width: int, batch: int = 1) -> Tensor:
    """Images in which no two pixels are equal and none is 0."""
    pixels = batch * 2 * height * width
    generator = torch.Generator().manual_seed(0)
    return (1 + torch.randperm(pixels, generator=generator)).reshape(batch, 2, height, width) / pixels


def moved(images: Tensor, *, flip: bool = False, angle: float = 0.0, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Warp all images alike."""
    batch = len(images)
    return warp(
        images,
        flip=torch.full((batch,), flip),
        angle=torch.full((batch,), float(angle)),
        shift=torch.tensor([shift] * batch),
    )


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Shift by padding with zeros and slicing."""
    height, width = images.shape[2:]
    pad = max(abs(right), abs(down))
    return F.pad(images, [pad] * 4)[..., pad - down : pad - down + height, pad - right : pad - right + width]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_still_images_stay(height: int, width: int) -> None:
    """No flip, no angle and no shift copies every pixel."""
    images = noise(height, width)
    assert torch.equal(moved(images), images)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_flip_is_exact(height: int, width: int) -> None:
    """A flip equals Tensor.flip bit for bit."""
    images = noise(height, width)
    assert torch.equal(moved(images, flip=True), images.flip(3))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("flip", [False, True])
def test_shift_is_pad_and_crop(height: int, width: int, flip: bool) -> None:
    """Whole shifts equal zero padding and slicing bit for bit, for even and odd sizes, also beyond the frame."""
    images = noise(height, width)
    steps = [-9, -1, 0, 1, 9] if height > 100 else sorted({*range(-4, 5), -height - 1, width + 1})
    pairs = [(right, down) for right in steps for down in steps]
    batch = images.expand(len(pairs), -1, -1, -1)
    flips, angles = torch.full((len(pairs),), flip), torch.zeros(len(pairs))
    result = warp(batch, flip=flips, angle=angles, shift=torch.tensor(pairs))
    source = images.flip(3) if flip else images
    for image, (right, down) in zip(result, pairs, strict=True):
        assert torch.equal(image, shifted(source, right, down)[0]), (right, down)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 28, 31, 32, 225])
@pytest.mark.parametrize("quarters", [-2, -1, 1, 2])
def test_quarter_turns_are_exact(size: int, quarters: int) -> None:
    """Multiples of 90° on square images equal rot90, which turns counter-clockwise, bit for bit."""
    images = noise(size, size)
    assert torch.equal(moved(images, angle=90 * quarters), torch.rot90(images, quarters, (2, 3)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_half_turn_of_any_shape(height: int, width: int) -> None:
    """Half a turn reverses both axes, square or not."""
    images = noise(height, width)
    assert torch.equal(moved(images, angle=180), images.flip(2, 3))


def test_flip_then_turn_then_shift() -> None:
    """The three are applied in this order."""
    images = noise(9, 9)
    expected = shifted(torch.rot90(images.flip(3), 1, (2, 3)), 2, -3)
    assert torch.equal(moved(images, flip=True, angle=90, shift=(2, -3)), expected)


def reference(image: Tensor, flip: bool, angle: float, shift: tuple[int, int]) -> Tensor:
    """The warp of one image, pixel by pixel, in Python."""
    height, width = image.shape[1:]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2 - shift[0], row - (height - 1) / 2 - shift[1]
            x, y = cos * x - sin * y, sin * x + cos * y
            x = -x if flip else x
            from_column, from_row = round(x + (width - 1) / 2), round(y + (height - 1) / 2)
            if 0 <= from_row < height and 0 <= from_column < width:
                result[:, row, column] = image[:, from_row, from_column]
    return result


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 24), (24, 9), (15, 8)])
@pytest.mark.parametrize("angle", [-15.0, 7.3, 33.0, 101.0])
def test_rotation_against_a_loop(height: int, width: int, angle: float) -> None:
    """Any angle agrees with the definition written as a loop; images that are not square are not sheared."""
    images = noise(height, width)
    for flip, shift in ((False, (0, 0)), (True, (3, -2))):
        result = moved(images, flip=flip, angle=angle, shift=shift)
        assert torch.equal(result[0], reference(images[0], flip, angle, shift))


def test_each_image_has_its_own_warp() -> None:
    """In a batch, each image is moved by its own numbers."""
    images = noise(8, 8, batch=3)
    flip, angle = torch.tensor([True, False, False]), torch.tensor([0.0, 90.0, 0.0])
    result = warp(images, flip=flip, angle=angle, shift=torch.tensor([[0, 0], [0, 0], [1, 2]]))
    assert torch.equal(result[0], images[0].flip(2))
    assert torch.equal(result[1], torch.rot90(images[1], 1, (1, 2)))
    assert torch.equal(result[2], shifted(images, 1, 2)[2])


@pytest.mark.parametrize("limit", [1, 100, 700, 10**9])
def test_parts_give_what_the_whole_gives(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images are warped at a time changes no bit, and no image is left out."""
    images = noise(13, 17, batch=7)
    generator = torch.Generator().manual_seed(2)
    warps = draw(7, Augmentation(flip=True, rotation=180.0, shift=3), generator)
    assert warps is not None
    each = [warps.take(slice(i, i + 1))[:3] for i in range(7)]
    expected = torch.cat(
        [warp(images[i : i + 1], flip=flip, angle=angle, shift=shift) for i, (flip, angle, shift) in enumerate(each)]
    )
    monkeypatch.setattr(sys.modules[warp.__module__], "_PIXELS_IN_CACHE", limit)
    assert torch.equal(warp(images, flip=warps.flip, angle=warps.angle, shift=warps.shift), expected)
    parts = pieces_in_cache(images)
    assert torch.equal(torch.cat([images[part] for part in parts]), images)
    assert len(parts) == {1: 7, 100: 7, 700: 3, 10**9: 1}[limit]
    assert len(pieces_in_cache(images[:0])) == 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_look_ups_are_those_of_affine_grid(height: int, width: int) -> None:
    """Rows and columns added up send every pixel where affine_grid does."""
    images = noise(height, width)
    for angle, flip, right in ((11.0, False, 1), (-77.7, True, 0), (45.0, False, -2)):
        turn, mirror = math.radians(angle), -1.0 if flip else 1.0
        rows = torch.tensor(
            [
                [mirror * math.cos(turn), -mirror * math.sin(turn) * height / width],
                [math.sin(turn) * width / height, math.cos(turn)],
            ],
            dtype=torch.float64,
        )
        shift = rows @ torch.tensor([[-2 * right / width], [0.0]], dtype=torch.float64)
        theta = torch.cat([rows, shift], 1)[None]
        grid = F.affine_grid(theta, list(images.shape), align_corners=False).float()
        expected = F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        found = moved(images, flip=flip, angle=angle, shift=(right, 0))
        assert (found != expected).float().mean() <= 1e-3  # a look-up between two pixels may go either way


def test_float64_agrees() -> None:
    """float64 images give the same pixels."""
    images = noise(17, 12)
    assert torch.equal(moved(images.double(), angle=11.0).float(), moved(images, angle=11.0))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_coarse_arithmetic_does_not_move_pixels(precision: str) -> None:
    """Under autocast and with coarse matrix products a whole shift is still exact."""
    images, before = noise(32, 32), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = moved(images, shift=(3, -4))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(result, shifted(images, 3, -4))


def test_identity_costs_nothing() -> None:
    """Without augmentation the images themselves come back and no number is drawn."""
    images, generator = noise(4, 4), torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert augment(images, Augmentation(), generator) is images
    assert torch.equal(generator.get_state(), state)


def test_random_numbers_come_from_the_generator_alone() -> None:
    """The same generator state gives the same images and the global generator is neither read nor moved."""
    images, settings = noise(12, 12, batch=16), Augmentation(flip=True, rotation=15.0, shift=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augment(images, settings, torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment(images, settings, torch.Generator().manual_seed(9)), first)
    assert not torch.equal(augment(images, settings, torch.Generator().manual_seed(10)), first)


def test_shifts_are_even_and_reach_both_ends() -> None:
    """Every shift from −2 to 2 comes in both directions, about equally often, and nothing beyond."""
    images = torch.zeros(5000, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    result = augment(images, Augmentation(shift=2), torch.Generator().manual_seed(0))[:, 0]
    assert (result.sum((1, 2)) == 1).all()
    places = result.mean(0)
    inside = places[2:7, 2:7]
    assert inside.sum().item() == pytest.approx(1.0)
    # 25 places of probability p = 1/25; five deviations of the frequency over 5,000 images.
    assert (inside - 1 / 25).abs().max() < 5 * (1 / 25 * 24 / 25 / 5000) ** 0.5


def test_half_of_the_images_are_flipped() -> None:
    """A flip has probability ½ and does nothing else."""
    images = noise(3, 4).expand(4000, -1, -1, -1)
    result = augment(images, Augmentation(flip=True), torch.Generator().manual_seed(0))
    flipped = (result == images.flip(3)).flatten(1).all(1)
    assert ((result == images).flatten(1).all(1) ^ flipped).all()
    assert abs(flipped.float().mean().item() - 0.5) < 5 * 0.5 / 4000**0.5


def test_angles_stay_within_their_limit() -> None:
    """Angles are spread evenly over ± the limit: seen on a pixel far from the centre."""
    size, limit = 101, 30.0
    images = torch.zeros(200, 1, size, size)
    images[:, :, 48:53, 90:95] = 1  # a spot to the right of the centre, at radius 42
    result = augment(images, Augmentation(rotation=limit), torch.Generator().manual_seed(0))[:, 0]
    axis = torch.arange(size) - 50.0
    x, y = (result * axis).sum((1, 2)), (result * axis[:, None]).sum((1, 2))
    angles = torch.rad2deg(torch.atan2(-y, x))
    assert angles.abs().max() < limit + 1  # the spot is copied to whole pixels
    assert angles.min() < -limit + 3
    assert angles.max() > limit - 3
    # The deviation of an even spread is limit/√3; its mean over 200 images lies within five of its own deviations.
    assert abs(angles.mean().item()) < 5 * limit / 3**0.5 / 200**0.5


def test_flips_do_not_depend_on_the_shift() -> None:
    """Allowing a shift leaves the choice of flipped images as it was."""
    images = torch.zeros(64, 1, 9, 21)
    images[..., 4:6] = 1  # so far left of the centre that a flip shows in spite of the shift
    left = [
        augment(images, Augmentation(flip=True, shift=shift), torch.Generator().manual_seed(3))[..., :10].sum((1, 2, 3))
        for shift in (0, 2)
    ]
    assert 0 < (left[0] > 0).sum() < 64
    assert torch.equal(left[0] > 0, left[1] > 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("flip", v) for v in (1, "yes", None)],
        *[("rotation", v) for v in (-1.0, 181.0, float("nan"), float("inf"), "15", True, None)],
        *[("shift", v) for v in (-1, 1.5, "2", True, None)],
    ],
)
def test_settings_out_of_range(key: str, value: Any) -> None:
    """A setting of the wrong type or range is refused by its name."""
    with pytest.raises(OptionError, match=f"{key} is"):
        Augmentation(**{key: value})


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4), torch.zeros(2, 1, 4, 4).bfloat16()]
)
def test_unfit_images(images: Tensor) -> None:
    """Raw bytes, a single image and half precision are refused."""
    with pytest.raises(ShapeError, match="expected float32 or float64"):
        augment(images, Augmentation(flip=True), torch.Generator())


def test_empty_batch() -> None:
    """No images give no images."""
    empty = torch.zeros(0, 1, 4, 4)
    assert augment(empty, Augmentation(flip=True, rotation=5.0, shift=1), torch.Generator()).shape == empty.shape


def test_views_are_spread_as_random_warps_are() -> None:
    """Flips, angles and shifts of views have the moments of even distributions, and are unrelated to each other."""
    settings = Augmentation(flip=True, rotation=20.0, shift=2)
    index = torch.arange(4000).repeat_interleave(5)
    view = torch.arange(5).repeat(4000)
    warps = Views(count=5, seed=1).numbers(index, view, settings)
    assert warps is not None
    angle, shift = warps.angle.double(), warps.shift.double()
    assert abs(warps.flip.double().mean() - 0.5) < 0.015
    assert abs(angle.mean()) < 0.3
    assert abs(angle.square().mean() - 400 / 3) < 3
    assert angle.abs().max() <= 20
    assert warps.shift.unique().tolist() == [-2, -1, 0, 1, 2]
    assert (shift.square().mean(0) - 2).abs().max() < 0.06
    columns = torch.stack([warps.flip.double(), angle, *shift.unbind(1), angle.roll(1), angle.roll(5)])
    assert (torch.corrcoef(columns) - torch.eye(6)).abs().max() < 0.03


def test_views_do_not_depend_on_the_batch() -> None:
    """A view is the same in any batch and order; another seed, image or view gives another."""
    settings = Augmentation(rotation=90.0)
    views = Views(count=3, seed=7)
    index, view = torch.tensor([5, 9, 5, 2**31]), torch.tensor([0, 2, 1, 2])
    whole = views.numbers(index, view, settings)
    backwards = views.numbers(index.flip(0), view.flip(0), settings)
    other = Views(count=3, seed=8).numbers(index, view, settings)
    assert whole is not None
    assert backwards is not None
    assert other is not None
    assert torch.equal(whole.angle, backwards.angle.flip(0))
    assert len({*whole.angle.tolist(), *other.angle.tolist()}) == 8


def test_views_of_nothing_to_vary() -> None:
    """Without augmentation there is no warp to apply."""
    assert Views(count=2).numbers(torch.arange(3), torch.zeros(3).long(), Augmentation()) is None


@pytest.mark.parametrize(
    ("settings", "message"), [({"count": 0}, "count is 0"), ({"count": 2, "seed": -1}, "seed is -1")]
)
def test_views_out_of_range(settings: dict[str, int], message: str) -> None:
    """Numbers out of range are refused."""
    with pytest.raises(OptionError, match=message):
        Views(**settings)
