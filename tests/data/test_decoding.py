"""Tests of decoding: every format and kind of pixels, by content, and whatever the state of the metadata."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from tests.data.pictures import encoded, noise

from svdistill.data.decoding import BLACK, decode, holds_image
from svdistill.errors import DataError

UPPER, LOWER = (200, 10, 20), (10, 200, 250)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def two_colours(mode: str = "RGB") -> Image.Image:
    """The upper half of one colour, the lower of another."""
    image = Image.new("RGB", (16, 16), UPPER)
    image.paste(LOWER, (0, 8, 16, 16))
    return image.convert(mode)


@pytest.mark.parametrize(
    "kind",
    [
        "AVIF",
        "BMP",
        "DDS",
        "DIB",
        "GIF",
        "ICNS",
        "ICO",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "QOI",
        "SGI",
        "TGA",
        "TIFF",
        "WEBP",
    ],
)
def test_formats(kind: str) -> None:
    """Every format that Pillow writes and has a beginning of its own comes back as what one sees."""
    found = decode(saved(two_colours(), kind), 16, 3)
    # Icons are stored at other sizes, and lossy formats are a few levels off.
    for row, colour in ((2, UPPER), (13, LOWER)):
        assert found[:, row, 8].tolist() == pytest.approx(colour, abs=6)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("BLP", "P"), ("MSP", "1"), ("XBM", "1"), ("TIFF", "CMYK"), ("JPEG", "CMYK"), ("TIFF", "YCbCr")),
        *(("PNG", "1"), ("TIFF", "LAB"), ("PNG", "P"), ("JPEG2000", "LA"), ("AVIF", "LA"), ("TIFF", "PA")),
    ],
)
def test_kinds_of_pixels(kind: str, mode: str) -> None:
    """Palettes, inks, bilevel and grey images become the colours that Pillow shows, or the brightness of them."""
    image = two_colours()
    if mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        turned = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")  # type: ignore[arg-type]
        assert turned is not None
    else:
        turned = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
    expected = image if mode == "LAB" else turned.convert("RGB")
    colours = decode(saved(turned, kind), 16, 3)
    greys = decode(saved(turned, kind), 16, 1)
    for row in (2, 13):
        colour = expected.getpixel((8, row))
        assert isinstance(colour, tuple)
        assert colours[:, row, 8].tolist() == pytest.approx(colour, abs=25 if mode == "LAB" else 6)
        brightness = np.dot(colour, (0.299, 0.587, 0.114))
        assert int(greys[0, row, 8]) == pytest.approx(brightness, abs=15 if mode == "LAB" else 6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "I;16"])
def test_transparency_shows_the_ground(mode: str, channels: int) -> None:
    """Black shapes on a transparent ground are black on white, or all black where the ground is."""
    shape = np.zeros((8, 8), dtype=np.uint8)
    shape[2:6, 2:6] = 255
    expected = {255: 255 - shape, BLACK: np.zeros_like(shape)}
    if mode in ("RGBA", "LA", "PA"):
        image = Image.fromarray(np.dstack([np.zeros_like(shape)] * 3 + [shape])).convert(mode)
        content = saved(image, "TIFF" if mode == "PA" else "PNG")
    else:  # one value, or an entry of the palette, stands for transparent
        value = (7, 7, 7) if mode == "RGB" else 7
        grey = np.where(shape, 0, 7).astype(np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(grey) if mode != "RGB" else Image.fromarray(np.dstack([grey] * 3))
        if mode == "P":
            image.putpalette([0] * 768)
        content = saved(image, "PNG", transparency=value)
        assert "transparency" in Image.open(io.BytesIO(content)).info
    for ground, pixels in expected.items():
        assert np.array_equal(decode(content, 8, channels, ground), np.stack([pixels] * channels))
    half = saved(Image.new("RGBA", (8, 8), (100, 0, 0, 128)), "PNG")
    assert decode(half, 8, 3)[:, 0, 0].tolist() == pytest.approx([100 * 0.502 + 127, 127, 127], abs=1)


@pytest.mark.parametrize(
    ("bits", "kind", "pixels", "key", "seen"),
    [
        (1, 0, b"\x40", (1,), [0, 255]),
        (2, 0, b"\x50", (1,), [255, 255]),
        (2, 0, b"\x20", (1,), [0, 170]),
        (4, 0, b"\x3c", (3,), [255, 204]),
        (8, 0, b"\x03\x0c", (3,), [255, 12]),
        (16, 0, b"\x03\xe8\x33\x33", (1000,), [255, 51]),
        (16, 2, b"\x03\xe8" * 3 + b"\x33\x33" * 3, (1000,) * 3, [255, 51]),
    ],
)
def test_a_transparent_colour_is_as_wide_as_the_pixels(
    bits: int, kind: int, pixels: bytes, key: tuple[int, ...], seen: list[int]
) -> None:
    """Each of PNG's depths has numbers of its own, whatever eight bits they become; two rows of two pixels, by hand."""

    def chunk(name: bytes, content: bytes) -> bytes:
        end = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + end

    header = struct.pack(">IIBBBBB", 2, 2, bits, kind, 0, 0, 0)
    transparent = struct.pack(f">{len(key)}H", *key)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", transparent)
    png += chunk(b"IDAT", zlib.compress(2 * (b"\0" + pixels))) + chunk(b"IEND", b"")
    assert decode(png, 2, 1)[0].tolist() == [seen, seen]


def wide_tiff(values: np.ndarray, *, bits: int, kind: int, white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF of 4 × 4 numbers, of a sample format (1 = natural, 2 = whole, 3 = floating)."""
    tags = ImageFileDirectory_v2()
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    for tag, value in ((256, 4), (257, 4), (258, bits), (259, 1), (262, int(not white_is_zero)), (277, 1), (278, 4)):
        tags[tag] = value
    tags[273], tags[279], tags[339] = 0, len(data), kind  # the offset is counted from the end of the tags
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + data


def test_wide_numbers() -> None:
    """Grey of 12 and 16 bits and from 0.0 to 1.0 is scaled by its type; what nothing says the range of is refused."""
    ramp = np.arange(16).reshape(4, 4) / 15
    expected = np.round(ramp * 255).astype(int)

    def read(content: bytes) -> np.ndarray:
        return decode(content, 4, 1)[0].astype(int)

    natural = (ramp * 65535).round().astype(np.uint16)
    assert abs(read(wide_tiff(natural, bits=16, kind=1)) - expected).max() <= 1
    assert abs(read(wide_tiff(natural, bits=16, kind=1, white_is_zero=True)) - (255 - expected)).max() <= 1
    assert abs(read(wide_tiff((ramp * 32767).astype(np.int16), bits=16, kind=2)) - expected).max() <= 1
    assert abs(read(wide_tiff(ramp.astype(np.float32), bits=32, kind=3)) - expected).max() <= 1
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        image = Image.fromarray(natural)
        assert abs(read(saved(image, kind)) - expected).max() <= 1
    twelve = wide_tiff(np.frombuffer(bytes([0xFF, 0xF0, 0x00] * 8), np.uint8), bits=12, kind=1)
    assert read(twelve)[0].tolist() == [255, 0, 255, 0]
    for values, bits, kind, message in (
        (ramp * 255, 32, 3, "its numbers go from 0 to 255, expected 0 to 1"),
        (ramp * np.nan, 32, 3, "its numbers go from nan"),
        (-ramp * 9, 16, 2, "its numbers go from -9 to 0, expected 0 to 32767"),
        (ramp * 255, 32, 2, "whole numbers of 32 bits"),
        (ramp * 255, 32, 1, "whole numbers of 32 bits"),
    ):
        dtype = {(32, 3): np.float32, (16, 2): np.int16, (32, 2): np.int32, (32, 1): np.uint32}[bits, kind]
        with pytest.raises(DataError, match=message):
            read(wide_tiff(values.astype(dtype), bits=bits, kind=kind))


def test_no_other_program_is_started(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript named as an image is not handed to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(Image.UnidentifiedImageError):
        decode(page, 8, 3)
    (tmp_path / "page").write_bytes(page)
    assert not holds_image(tmp_path / "page")
    assert not (tmp_path / "called").exists()


def test_bombs() -> None:
    """A file that says it has more pixels than are read is refused before they are made."""
    small = saved(Image.new("1", (8, 8)), "PNG")
    for width, height in ((9000, 9000), (60_000, 60_000)):
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        bomb = small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]
        with pytest.raises((DataError, Image.DecompressionBombError), match=r"9000 × 9000 pixels, 1 to|exceeds limit"):
            decode(bomb, 8, 3)
    # A large JPEG is decoded at a fraction of its size.
    assert decode(saved(Image.new("L", (9000, 9000), 99), "JPEG"), 8, 1).mean() == pytest.approx(99, abs=1)


def with_metadata(kind: str) -> tuple[bytes, int, int]:
    """A file of 16 × 16 noise, upright, and where its metadata begin and end."""
    image = Image.fromarray(noise(1, 16, 16))
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a picture", 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("a", "b" * 50)
        text.add_text("c", "d" * 500, zip=True)
        text.add_itxt("e", "ü" * 40, zip=True)
        content = saved(image, kind, pnginfo=text, exif=exif, icc_profile=profile, dpi=(72, 72))
        return content, 33, content.index(b"IDAT") - 4
    if kind == "WEBP":
        content = saved(image, kind, exif=exif, icc_profile=profile, xmp=b"<x/>", lossless=True)
        return content, content.index(b"EXIF"), len(content)
    if kind == "TIFF":
        content = saved(image, kind, description="a picture", software="some", icc_profile=profile)
        return content, content.index(profile), content.index(profile) + len(profile)
    content = saved(image, kind, exif=exif.tobytes(), icc_profile=profile, comment=b"a picture")
    return content, 2, content.index(b"\xff\xdb")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_metadata_cost_no_pixels(kind: str) -> None:
    """Whatever bytes of texts, profiles and EXIF are wrong: the pixels come out as they are, or turned as it says."""
    content, begin, end = with_metadata(kind)
    expected = decode(content, 16, 3).astype(int)
    ways = [np.rot90(expected, turns, (1, 2)) for turns in range(4)]
    ways += [way[:, :, ::-1] for way in ways]
    draw = random.Random(0)
    lost = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 8))):
            damaged[draw.randrange(begin, end)] = draw.randrange(256)
        try:
            found = decode(bytes(damaged), 16, 3)
        except Exception:
            lost += 1  # the very bytes that say where the pixels are
            continue
        assert any(abs(found - way).max() <= 1 for way in ways)
    assert lost <= 3


def test_what_is_not_metadata_is_not_made_up() -> None:
    """A file that is cut short stays an error, and so does one of another format."""
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        content = encoded(noise(1, 64, 64), kind)
        for part in (0.1, 0.6):
            with pytest.raises((OSError, SyntaxError)):
                decode(content[: int(part * len(content))], 8, 3)
    with pytest.raises(Image.UnidentifiedImageError):
        decode(b"<html>", 8, 3)


def test_the_largest_of_an_icon_and_the_first_of_several() -> None:
    """Of several images in a file, one is taken: the same one always."""
    pages = [Image.new("L", (8, 8), grey) for grey in (50, 150)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        content = saved(pages[0], kind, save_all=True, append_images=pages[1:])
        assert decode(content, 8, 1).mean() == pytest.approx(50, abs=2)


def test_images_that_have_the_size_stay() -> None:
    """Nothing is resampled where nothing has to be."""
    pixels = noise(1, 8, 8)
    assert np.array_equal(decode(encoded(pixels), 8, 3), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(8, 14), (14, 8)])
def test_the_middle_is_kept(height: int, width: int) -> None:
    """Of an oblong image, the square in the middle."""
    pixels = noise(2, height, width)
    middle = pixels[(height - 8) // 2 :, (width - 8) // 2 :][:8, :8]
    assert np.array_equal(decode(encoded(pixels), 8, 3), middle.transpose(2, 0, 1))


def test_scaling_is_smoothed() -> None:
    """A fine checkerboard becomes grey, not black or white; constant images stay, larger and smaller."""
    board = np.indices((32, 32)).sum(0) % 2 * 255
    small = decode(encoded(board.astype(np.uint8)), 8, 1)
    assert small.shape == (1, 8, 8)
    assert abs(small.astype(int) - 127).max() <= 30
    for size in (3, 50):
        assert set(decode(encoded(np.full((9, 12, 3), 77, np.uint8)), size, 3).ravel().tolist()) == {77}


def test_kinds_of_images() -> None:
    """Palettes, transparency, 16 bits, CMYK, bilevel and turned images become what one sees."""
    red = Image.new("RGB", (8, 8), (200, 10, 20))
    for image in (red.convert("RGBA"), red.quantize(4)):
        assert decode(saved(image, "PNG"), 8, 3)[:, 0, 0].tolist() == pytest.approx([200, 10, 20], abs=4)
    assert decode(saved(red.convert("CMYK"), "TIFF"), 8, 3)[:, 0, 0].tolist() == pytest.approx([200, 10, 20], abs=4)
    deep = Image.fromarray(np.full((8, 8), 0x8012, dtype=np.uint16))
    assert set(decode(saved(deep, "PNG"), 8, 1).ravel().tolist()) == {0x80}
    assert set(decode(saved(Image.new("1", (8, 8), 1), "PNG"), 8, 3).ravel().tolist()) == {255}
    assert set(decode(saved(red, "PNG"), 8, 1).ravel().tolist()) == {round(0.299 * 200 + 0.587 * 10 + 0.114 * 20)}
    turned = Image.new("L", (8, 8))
    turned.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise brings the bright upper half to the right
    for kind in ("PNG", "JPEG"):
        found = decode(saved(turned, kind, exif=exif), 8, 1)[0, 4].tolist()
        assert found == pytest.approx([0] * 4 + [255] * 4, abs=2)


def test_large_jpeg_is_close() -> None:
    """Decoding a large JPEG at a fraction of its size gives nearly what the whole gives."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (480, 1))] * 3, -1)
    exact = decode(encoded(pixels), 32, 3).astype(int)
    assert abs(decode(encoded(pixels, "JPEG"), 32, 3) - exact).max() <= 3
