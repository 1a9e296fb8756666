"""Names of files, folders and classes, which may hold anything: how they are compared, and how they are shown."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

# Invisible, but part of how Persian, Hindi and many emoji are written.
_JOINERS = "\u200c\u200d"
_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, formatting, halves of a pair, line and paragraph separators


def same(name: str) -> str:
    """Return the one form of a name that is the same on every system.

    macOS writes é as two characters where Linux and Windows write one; only the NFC form compares equal.

    Args:
        name: as the system gives it; bytes that are not UTF-8 may stand in it as surrogates, and stay.
    """
    return unicodedata.normalize("NFC", name)


def of_recipe(path: Path) -> str:
    """Return the name that a recipe has by its file, which is that of a folder of runs, too."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "recipe"


def brief_keys(keys: Collection[str]) -> dict[str, str]:
    """Return of each dotted key the shortest end that tells it from the others: ``rank``, or ``svd.weight``."""
    ends = {key: [key.split(".", i)[-1] for i in range(key.count("."), -1, -1)] for key in keys}
    alone = {key: (end for end in ends[key] if sum(end in other for other in ends.values()) == 1) for key in keys}
    return {key: next(alone[key], key) for key in keys}


def brief_settings(settings: Mapping[str, object]) -> list[str]:
    """Write settings as ``key=value``, each key as short as tells it from the others; see `brief_keys`."""
    return [f"{key}={value}" for key, value in zip(brief_keys(settings).values(), settings.values(), strict=True)]


def printable(name: object) -> str:
    r"""Return a name as it can be shown in a terminal, a page, a plot or a file: one line that does nothing by itself.

    Control characters (a terminal would obey an escape sequence), those that turn the direction of writing, line ends
    and bytes that are not text become ``\x1b``, ``\u202e``, ``\n`` and ``\xe9``; all else stays.

    Args:
        name: a name, a path, or a message with some in it.
    """
    text = str(name)
    if text.isprintable():
        return text
    return "".join(_shown(letter) if _is_harmful(letter) else letter for letter in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, with names in it, as it can be shown; see `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def _is_harmful(letter: str) -> bool:
    # U+FFFE, U+FFFF and their like are no characters, and no page or SVG may hold them.
    return letter not in _JOINERS and (unicodedata.category(letter) in _HARMFUL or ord(letter) & 0xFFFE == 0xFFFE)


def _shown(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return ascii(letter)[1:-1]
