"""The image files below a folder, and what lies there besides them."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from svdistill.data.decoding import holds_image
from svdistill.errors import DataError
from svdistill.names import printable

Identity = tuple[int, int]

# Taken for images by their names; what they hold is found out when they are read. All others are looked into.
EXTENSIONS = (
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# Not looked into: they are many beside images, and never hold one.
_TEXTS = (".csv", ".html", ".json", ".md", ".npy", ".py", ".txt", ".xml", ".yaml", ".yml")
# Of Synology and QNAP, of Windows, macOS and Linux: thumbnails, deleted files, and what they note. Those that begin
# with a dot are left out as hidden.
_SYSTEM_FOLDERS = (
    *("@eadir", "@recycle", "#recycle", "@recently-snapshot", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "__macosx", "network trash folder", "temporary items", "lost+found"),
)
_SYSTEM_FILES = ("desktop.ini", "ehthumbs.db", "thumbs.db", "icon\r")
_HIDDEN = "hidden, or of the system"
_READ_ALREADY = "links to folders that are read already"
_SHOWN = 3


class LeftOut:
    """What was left out of a folder: how many of each kind, and the first of them by name."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one.

        Args:
            kind: why it was left out.
            name: its path within the folder.
        """
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= _SHOWN:
            self._first.setdefault(kind, []).append(printable(name))

    @property
    def counts(self) -> dict[str, int]:
        """How many were left out, by the reason."""
        return dict(self._counts)

    def __str__(self) -> str:
        """Return all in one line, or nothing where nothing was left out."""
        return "; ".join(
            f"{kind}: {count:,} ({', '.join(self._first[kind])}{', …' if count > _SHOWN else ''})"
            for kind, count in self._counts.items()
        )


class Listing:
    """Lists folders of one tree; each is looked into once, however many links lead to it.

    Args:
        base: the folder that all names are relative to.

    Attributes:
        left_out: what was left out so far.
    """

    def __init__(self, base: Path) -> None:
        self.left_out = LeftOut()
        self._base = base
        real = base.resolve()
        # A link to a folder around this one would bring in everything that lies beside it.
        self._above = _identities(real.parents)
        self._seen = self._above | _identities([real])

    def images(self, inner: str = "") -> list[str]:
        """Return the images below a folder of the tree, relative to the base, with slashes, sorted.

        Args:
            inner: the folder, relative to the base.

        Raises:
            DataError: a folder cannot be read.
        """
        found: list[str] = []
        for entry, name, kind in self._below(inner):
            if kind != "file":
                self.left_out.add(kind, name)
            elif is_image(entry.name):
                found.append(name)
            else:
                self._look_into(Path(entry.path), name, found)
        return sorted(found)

    def reach(self) -> "Reach":
        """Walk the whole tree and return what tells where its images are; few files are read, if any.

        Raises:
            DataError: a folder cannot be read.
        """
        links = [Path(entry.path) for entry, _, kind in self._below("") if kind == "file" and entry.is_symlink()]
        targets = [path.resolve() for path in links if is_image(path.name) or _holds_image(path)]
        around = _identities(path.parent for path in targets if not is_system(path.name))
        return Reach(self._seen - self._above, linked=_identities(targets), around=around)

    def folders(self) -> list[str]:
        """Return the names of the folders in the base, sorted; no link in one of them leads into another one later.

        Raises:
            DataError: the base cannot be read.
        """
        found = []
        for entry in self._entries(""):
            if is_system(entry.name):
                self.left_out.add(_HIDDEN, entry.name)
            elif (kind := _kind(entry)) == "folder":
                if self._is_new(entry, entry.name):
                    found.append(entry.name)
            else:
                self.left_out.add("in no folder of a class" if kind == "file" else kind, entry.name)
        return sorted(found)

    def _below(self, inner: str) -> Iterator[tuple["os.DirEntry[str]", str, str]]:
        """Yield what lies below a folder and is none itself, with its path within the base and what kind it is."""
        waiting = [inner]
        while waiting:
            place = waiting.pop()
            for entry in self._entries(place):
                name = f"{place}/{entry.name}" if place else entry.name
                if is_system(entry.name):
                    self.left_out.add(_HIDDEN, name)
                elif (kind := _kind(entry)) != "folder":
                    yield entry, name, kind
                elif self._is_new(entry, name):
                    waiting.append(name)

    def _is_new(self, entry: "os.DirEntry[str]", name: str) -> bool:
        identity = _identity(entry.path)
        if identity is None or identity in self._seen:
            self.left_out.add(_READ_ALREADY, name)
            return False
        self._seen.add(identity)
        return True

    def _look_into(self, path: Path, name: str, found: list[str]) -> None:
        image = _holds_image(path)
        if image is None:
            self.left_out.add("unreadable", name)
        elif image:
            found.append(name)
        else:
            self.left_out.add("no image of a known format", name)

    def _entries(self, inner: str) -> Iterator["os.DirEntry[str]"]:
        try:
            with os.scandir(self._base / inner) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"the folder {self._base / inner} cannot be read ({reason}); give leave to read it, or remove it"
            ) from error


class Reach(NamedTuple):
    """Where the files of a tree are, whatever links lead to them: device and inode of each.

    Attributes:
        folders: that were looked into.
        linked: files that links lead to.
        around: folders that these files are in.
    """

    folders: set[Identity]
    linked: set[Identity]
    around: set[Identity]

    def meets(self, other: "Reach") -> bool:
        """Tell whether a file lies below both of two folders, also by a link to it or to a folder around it."""
        pairs = [(self.folders, other.folders), (self.linked, other.linked)]
        pairs += [(self.around, other.folders), (self.folders, other.around)]
        return any(some & others for some, others in pairs)


def reach(folder: Path) -> Reach:
    """Return where the files below a folder are, which two folders are compared by.

    Only folders and links are asked what they are, so that a million files take a second or two.

    Args:
        folder: one that is there.

    Raises:
        DataError: it, or a folder below it, cannot be read.
    """
    return Listing(folder).reach()


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image that can be read."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system makes for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS or name.lower() in _SYSTEM_FILES


def _kind(entry: "os.DirEntry[str]") -> str:
    """Return ``folder`` or ``file``, or what else it is; a link is what it leads to."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        mode = entry.stat().st_mode
    except OSError:  # a link to itself
        return "broken links"
    kinds = {"pipes": stat.S_ISFIFO, "sockets": stat.S_ISSOCK}
    return next((kind for kind, fits in kinds.items() if fits(mode)), "devices")


def _holds_image(path: Path) -> bool | None:
    """Whether a file whose name does not tell is an image; None where it cannot be read."""
    try:
        return not path.name.lower().endswith(_TEXTS) and holds_image(path)
    except OSError:
        return None


def _identities(paths: Iterable[Path]) -> set[Identity]:
    return {identity for path in paths if (identity := _identity(path)) is not None}


def _identity(path: str | Path) -> Identity | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino
