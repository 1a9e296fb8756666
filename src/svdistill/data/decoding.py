"""One image file to the pixels of a square, whatever its format, its kind of pixels and the state of its metadata."""

import io
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from svdistill.data.metadata import without_metadata
from svdistill.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

WHITE, BLACK = 255, 0
# Pillow's own decoders of formats that begin with bytes of their own, the common ones first. Not among them: those that
# start other programs (EPS, WMF) or hand over to any other decoder (IPTC), and those that take nearly any bytes for an
# image, so that noise would be learnt (IM, IMT, PCD, SPIDER).
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "DIB", "ICO", "ICNS", "QOI"),
    *("PSD", "DDS", "PCX", "DCX", "SGI", "SUN", "BLP", "MSP", "XBM"),
)
_TARGA_END = b"TRUEVISION-XFILE.\0"  # a TGA has no beginning of its own; one without this end is not recognized
# Of a decoded image; some steps need a few times four bytes for each.
MOST_PIXELS = 1 << 26
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_SIGNED = 2
_ORIENTATION = 0x0112  # of EXIF
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}  # of eight bits, by how Pillow calls what a PNG holds


def decode(content: bytes, image_size: int, channels: int, background: int = WHITE) -> Pixels:
    """Decode an image file to a square; of several images in it the first, and the largest of an icon.

    The format is told by the content alone, and no other program is started. Metadata that cannot be read are left out.

    Args:
        content: of the file, in one of the formats of ``docs/data.md``.
        image_size: height and width in pixels: the image is scaled until it just covers them, and its middle is kept.
        channels: 1 = grey, 3 = colour.
        background: the grey, 0 to 255, that shows through where the image is transparent.

    Returns:
        (C, H, W), uint8. Grey of up to 16 bits is scaled by what its type can hold, floating-point numbers from [0, 1].

    Raises:
        DataError: the image is too large, or nothing says what its numbers mean.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        return _decoded(content, image_size, channels, background)
    except DataError:
        raise
    except Exception:  # damaged metadata can make a decoder fail in any way
        bare = without_metadata(content)
        if bare == content:
            raise
        return _decoded(bare, image_size, channels, background)


def holds_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file begins like an image that `decode` reads; OSError where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_formats()):
            return True
    except UnidentifiedImageError:
        return False
    except OSError as error:
        if error.errno is not None:
            raise
        return True  # it begins like one and is damaged: decoding it will say so
    except Exception:  # as above
        return True


def _decoded(content: bytes, image_size: int, channels: int, background: int) -> Pixels:
    from PIL import Image

    formats = (*_formats(), "TGA") if content.endswith(_TARGA_END) else _formats()
    with Image.open(io.BytesIO(content), formats=formats) as opened:
        # A large JPEG is decoded at a fraction of its size at once, still twice as large as what is needed.
        opened.draft("L" if channels == 1 else "RGB", (2 * image_size, 2 * image_size))
        return squared(opened, image_size, channels, background)


def squared(opened: "Image.Image", image_size: int, channels: int, background: int = WHITE) -> Pixels:
    """Bring an image that Pillow has opened to a square; see `decode`.

    Args:
        opened: the image.
        image_size: see `decode`, also for the others.
        channels: 1 = grey, 3 = colour.
        background: the grey that shows through.

    Returns:
        (C, H, W), uint8.

    Raises:
        DataError: see `decode`.
    """
    from PIL import Image, ImageOps

    if not 0 < opened.width * opened.height <= MOST_PIXELS:
        raise DataError(f"it has {opened.width} × {opened.height} pixels, 1 to {MOST_PIXELS:,} are read")
    mode = "L" if channels == 1 else "RGB"
    _scale_transparent_colour(opened)
    opened.load()
    image = _upright(opened)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, opened, background)
    elif image.has_transparency_data:
        image = _over(image, background)
    if image.mode == "LAB":  # which becomes grey by way of colour alone
        image = image.convert("RGB")
    if image.mode != mode:
        image = image.convert(mode)
    fitted = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling.BILINEAR)
    pixels: Pixels = np.asarray(fitted, dtype=np.uint8).reshape(image_size, image_size, channels)
    return pixels.transpose(2, 0, 1)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(one for one in _FORMATS if one in Image.OPEN)


def _upright(image: "Image.Image") -> "Image.Image":
    """Turn an image as its metadata say; one whose metadata cannot be read stays as it is stored."""
    from PIL.Image import Transpose

    try:
        turn = image.getexif().get(_ORIENTATION)
    except Exception:  # they are parsed in many places, each of which fails in its own way
        return image
    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(ways[turn]) if isinstance(turn, int) and turn in ways else image


def _scale_transparent_colour(opened: "Image.Image") -> None:
    """Bring the transparent colour of a PNG, stored as wide as its pixels, to the eight bits that these have here."""
    tile, colour = getattr(opened, "tile", None), opened.info.get("transparency")
    if opened.format != "PNG" or not tile:
        return
    stored = tile[0][3]
    if stored in _GREY_STEPS and isinstance(colour, int):
        opened.info["transparency"] = min(255, colour * _GREY_STEPS[stored])
    elif stored == "RGB;16B" and isinstance(colour, tuple):
        opened.info["transparency"] = tuple(value >> 8 for value in colour)


def _over(image: "Image.Image", background: int) -> "Image.Image":
    """Lay a transparent image over a ground of one grey."""
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    ground = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _eight_bits(image: "Image.Image", opened: "Image.Image", background: int) -> "Image.Image":
    """Scale grey of more than eight bits by what its type can hold.

    Raises:
        DataError: a number is outside of what can be scaled.
    """
    from PIL import Image

    values = np.asarray(image)
    top, inverted = (1.0, _tags(opened).get(_PHOTOMETRIC) == 0) if image.mode == "F" else _range(image, opened)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= top):  # NaN too
        raise DataError(f"its numbers go from {low:g} to {high:g}, expected 0 to {top:g}; save it with 8 or 16 bits")
    grey = (values * (255 / top)).round().astype(np.uint8)
    if inverted:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = background
    return Image.fromarray(grey)


def _range(image: "Image.Image", opened: "Image.Image") -> tuple[float, bool]:
    """Return the largest number that the pixels of wide whole numbers can have, and whether 0 is white."""
    tags = _tags(opened)
    bits = int(tags.get(_BITS, (16,))[0])
    # What PNG and PPM hold is 16 bits wide by now, whatever it was.
    if bits > 16 or (image.mode == "I" and not tags and opened.format not in ("PNG", "PPM")):
        raise DataError("its pixels are whole numbers of 32 bits, whose range nothing tells; save it with 8 or 16 bits")
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    return float((1 << (bits - signed)) - 1), tags.get(_PHOTOMETRIC) == 0


def _tags(opened: "Image.Image") -> dict[int, Any]:
    from PIL.TiffImagePlugin import TiffImageFile

    return dict(opened.tag_v2) if isinstance(opened, TiffImageFile) else {}
