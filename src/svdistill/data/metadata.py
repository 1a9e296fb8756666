"""Image files without their metadata, for those whose metadata are damaged."""

import re
import zlib
from typing import Literal

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\0\0"
# Of a PNG's chunks that decoders may skip: those that change what one sees.
_VISIBLE = (b"tRNS", b"eXIf")
_PNG_PARTS = re.compile(rb"PLTE|tRNS|eXIf|IDAT|IEND")
# A JPEG within it, as a thumbnail is one, its end, and the tables that one begins with.
_JPEG_PARTS = re.compile(rb"\xff[\xd8\xd9\xdb\xc0-\xc2\xc4]")
_START_OF_SCAN, _COMMENT, _JFIF, _APP1, _ADOBE = 0xDA, 0xFE, 0xE0, 0xE1, 0xEE
_WEBP_PARTS = re.compile(rb"VP8[ L]|ALPH|ANIM|ANMF")
_WEBP_METADATA = (b"ICCP", b"EXIF", b"XMP ", b"")  # or the end
_WEBP_FLAGS = 0x20 | 0x08 | 0x04  # of colour profile, EXIF and XMP
_TIFF: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# The tags that say where a TIFF's pixels are and what they mean, which way is up among them.
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(338, 339, 347, 529, 530, 531, 532),
}


def without_metadata(content: bytes) -> bytes:
    """Return an image file without texts, colour profiles and the like; a sound EXIF stays, as it turns images.

    Args:
        content: of a PNG, JPEG, WebP or TIFF file.

    Returns:
        Its pixels as they were; any other file, or one whose pixels are not found, as it was.
    """
    if content.startswith(_PNG):
        return _bare_png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _bare_webp(content)
    if content[:4] in _TIFF:
        return _bare_tiff(content, _TIFF[content[:4]])
    return _bare_jpeg(content) if content.startswith(_JPEG) else content


def _bare_png(content: bytes) -> bytes:
    kept = [_PNG]
    place = len(_PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind, chunk = content[place + 4 : place + 8], content[place:end]
        critical = kind.isalpha() and kind[:1].isupper()
        sound = len(chunk) == end - place and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if critical or (sound and kind in _VISIBLE):
            kept.append(chunk)
        if not (critical or sound):  # its length may be what is damaged
            found = _PNG_PARTS.search(content, place + 8)
            end = len(content) if found is None else found.start() - 4
        place = end
    return b"".join(kept)


def _bare_jpeg(content: bytes) -> bytes:
    kept = _segments(content, len(_JPEG))
    depth = 0
    for part in _JPEG_PARTS.finditer(content, len(_JPEG)):
        if kept is not None:
            break
        # A segment's length is damaged. What follows it is looked for, but not within a thumbnail.
        if part[0] == _JPEG:
            depth += 1
        elif part[0] == b"\xff\xd9":
            depth -= 1
        elif depth <= 0:
            kept = _segments(content, part.start())
    return content if kept is None else _JPEG + kept


def _segments(content: bytes, place: int) -> bytes | None:
    """Return the segments of a JPEG from one of them to the end, without metadata; None where they do not follow."""
    kept: list[bytes] = []
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == _START_OF_SCAN:
            return b"".join([*kept, content[place:]])
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        metadata = marker == _COMMENT or (_JFIF < marker < 0xF0 and marker != _ADOBE)
        if not metadata or (marker == _APP1 and content[place + 4 : end].startswith(_EXIF)):
            kept.append(content[place:end])
        place = end
    return None


def _bare_webp(content: bytes) -> bytes:
    kept = []
    place = 12
    while place + 8 <= len(content):
        kind, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        following = content[end : end + 4]
        if kind == b"VP8X" and size:
            kept.append(
                content[place : place + 8] + bytes([content[place + 8] & ~_WEBP_FLAGS]) + content[place + 9 : end]
            )
        elif _WEBP_PARTS.fullmatch(kind):
            kept.append(content[place:end])
        elif following not in _WEBP_METADATA and not _WEBP_PARTS.fullmatch(following):  # its size is damaged
            found = _WEBP_PARTS.search(content, place + 8)
            end = len(content) if found is None else found.start()
        place = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _bare_tiff(content: bytes, order: Literal["little", "big"]) -> bytes:
    """Make a single zero of each entry of the first directory that is not about pixels."""
    start = int.from_bytes(content[4:8], order)
    zero = b"".join(number.to_bytes(size, order) for number, size in ((1, 2), (1, 4), (0, 4)))  # type, count, value
    bare = bytearray(content)
    for entry in range(
        start + 2, min(start + 2 + 12 * int.from_bytes(content[start : start + 2], order), len(bare)), 12
    ):
        if int.from_bytes(content[entry : entry + 2], order) not in _TIFF_PIXELS and entry + 12 <= len(bare):
            bare[entry + 2 : entry + 12] = zero
    return bytes(bare)
