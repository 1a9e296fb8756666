"""What a run writes and reads back: recipe, environment, metrics, summary. Nothing here needs a model or a GPU."""

import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from svdistill import checksums
from svdistill.atomic import clear_leftovers, digest, write_atomically
from svdistill.errors import DataError
from svdistill.plain import MAX_JSON, parse_json, parse_yaml, read_text

# Where the files lie, on what the run runs and how often it saves: none of it changes the result beyond rounding.
MACHINE_KEYS = (
    "data.root",
    "train.device",
    "train.compile",
    "train.capture",
    "train.channels_last",
    "train.recompute",
    "train.checkpoint_minutes",
    "train.log",
    "teacher.shard",
)

# What an epoch's accuracy is called in the metrics: on the test images, or those held out in their place, and on images
# that choose the best epoch.
ACCURACY, VALIDATION_ACCURACY = "accuracy", "validation_accuracy"

_RECIPE = "recipe.yaml"
_AGAIN = "call the same training again, which restores it from the run's checkpoint, or train afresh (--fresh)"
_FILES = "files"  # where the summary names the run's other files, each with its SHA-256
# A run that was renamed to make room for a fresh one: its seed and digest, then when that was.
_SET_ASIDE = re.compile(r"\.\d{8}-\d{6}(\.\d+)?$")


def environment() -> dict[str, Any]:
    """Return what a result depends on besides its recipe: versions, processor, GPU and number of threads."""
    import torch  # late: reading records back needs no torch

    from svdistill.ranks import find_ranks
    from svdistill.version import __version__

    return {
        "svdistill": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": find_ranks().world,
        "command": sys.argv,
    }


def is_set_aside(path: Path) -> bool:
    """Whether a run's folder is one that was renamed to make room for a fresh run."""
    return _SET_ASIDE.search(path.name) is not None


class RunRecord:
    """The folder of one run, and the names in it.

    ===========================  =======================================================================
    ``recipe.yaml``              the full recipe
    ``data.json``                which images and which teacher it was made with
    ``environment.json``         versions, processor, GPU, threads
    ``metrics.jsonl``            one line for each epoch; ``epoch`` is the number of epochs done, so the first is 1
    ``summary.json``             written last: where it is, and the files that it names, the run has finished
    ``student.safetensors``      the trained network alone
    ``insight.npz``              spectra, singular vectors, a few images and the confusion matrix, for the report
    ``checkpoints/last.pt``      everything needed to resume
    ``checkpoints/previous.pt``  the one before it, until the run has finished
    ``checkpoints/best.pt``      the same, of the epoch with the best accuracy
    ``post-mortem.json``         steps that were not applied since they were not finite, if there were any
    ``checkpoints/post-mortem.pt``  the state of a run that such steps ended
    ``tensorboard/``             training curves for TensorBoard, where the recipe asks for them
    ``trackers/``                which runs of trackers this one is, where the recipe asks for them
    ===========================  =======================================================================

    Each line of the metrics, the environment and the summary carry a checksum, see :mod:`svdistill.checksums`, and the
    summary has those of the recipe, the data, the metrics, the student and the diagnostics. All are compared when they
    are read; what an earlier version wrote without is read with a note.

    Args:
        path: the folder; making it is :meth:`create`'s work.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.student = self.path / "student.safetensors"
        self.data = self.path / "data.json"
        self.diagnostics = self.path / "insight.npz"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.previous = self.checkpoints / "previous.pt"
        self.best = self.checkpoints / "best.pt"
        self.post_mortem = self.path / "post-mortem.json"
        self.post_mortem_state = self.checkpoints / "post-mortem.pt"
        self.tensorboard = self.path / "tensorboard"
        self.trackers = self.path / "trackers"
        self._recipe = self.path / _RECIPE
        self._environment = self.path / "environment.json"
        self._metrics = self.path / "metrics.jsonl"
        self._summary = self.path / "summary.json"
        # Those of which the summary has a checksum.
        self._kept = (self._recipe, self.data, self._metrics, self.student, self.diagnostics)

    def __repr__(self) -> str:
        return f"RunRecord({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], recipe: Mapping[str, Any]) -> "RunRecord":
        """Make the folder of a run, or find it again, and write down its recipe and environment.

        Args:
            path: the folder.
            recipe: the full recipe, of plain values (dict, list, str, int, float, bool, None).

        Returns:
            The record; metrics and checkpoints that were there stay.

        Raises:
            DataError: the folder holds a run of another recipe, or cannot be made.
        """
        record = cls(path)
        content = _plain_yaml(recipe)
        if record._recipe.exists() and record.recipe() != yaml.safe_load(content):
            raise DataError(f"{record.path} holds a run of another recipe; choose another folder or remove this one")
        try:
            write_atomically(record._recipe, content)
            write_atomically(record._environment, _sealed(environment(), indent=2))
        except OSError as error:
            raise DataError(
                f"cannot write to the run folder {record.path}: {error.strerror or error}; choose another"
            ) from error
        return record

    @classmethod
    def find(cls, folder: str | os.PathLike[str], *, deep: bool = True) -> list["RunRecord"]:
        """Find the runs in a folder, in order of their paths; those that were renamed to make room are left out.

        Args:
            folder: where to look.
            deep: whether at any depth, or in its own subfolders alone.
        """
        files = sorted(Path(folder).glob(f"{'**' if deep else '*'}/{_RECIPE}"))
        return [cls(file.parent) for file in files if not is_set_aside(file.parent)]

    def set_aside(self) -> Path | None:
        """Rename the folder, so that the run can be made afresh and nothing is lost.

        Returns:
            Where it is now; None where there was none.
        """
        if not self.path.exists():
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (f"{self.path.name}.{stamp}{suffix}" for suffix in ("", *(f".{n}" for n in range(1, 1000))))
        target = next(path for name in names if not (path := self.path.with_name(name)).exists())
        self.path.rename(target)
        return target

    @property
    def exists(self) -> bool:
        """Whether the folder is that of a run."""
        return self._recipe.exists()

    @property
    def is_begun(self) -> bool:
        """Whether a training has written more into the folder than a recipe, which may be anybody's."""
        return any(file.exists() for file in (self._environment, self._metrics, self._summary, self.checkpoints))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and no file of it is missing since; :meth:`damage` looks into them too."""
        return self.ended and not self.missing()

    def missing(self) -> list[Path]:
        """Return the files of a run that has ended which are not there any more."""
        try:
            return [file for file in self._noted() if not file.is_file()]
        except DataError:  # whoever reads the summary is told
            return []

    @property
    def ended(self) -> bool:
        """Whether the run has a summary, whatever has become of its other files."""
        return self._summary.exists()

    def damage(self, *, large: bool = True) -> dict[str, str]:
        """Read every file of a run that has ended, and compare it with its checksum.

        Args:
            large: whether the network and the metrics are read too; :meth:`metrics` compares these itself.

        Returns:
            By name of a file what is wrong with it; {} where the run is whole.
        """
        try:
            noted = self._noted()
        except DataError:
            return {self._summary.name: "is damaged"}
        looked_at = {file: known for file, known in noted.items() if large or file not in (self.student, self._metrics)}
        wrong = {file.name: _damage(file, known) for file, known in looked_at.items()}
        return {name: what for name, what in wrong.items() if what}

    def student_digest(self) -> str | None:
        """Return the SHA-256 that the student had when the run ended, or has where the summary does not say it.

        Returns:
            None where the run has not ended, or there is neither.
        """
        try:
            known = self._noted().get(self.student) if self.ended else None
        except DataError:
            known = None
        return known or (digest(self.student) if self.ended and self.student.is_file() else None)

    def can_finish_again(self, damage: Collection[str]) -> bool:
        """Whether what :meth:`damage` has named is all made again when a run is finished from a checkpoint."""
        return not {self._recipe.name, self.data.name} & set(damage)

    def rewrite_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Write down the recipe again, where the file has been damaged."""
        write_atomically(self._recipe, _plain_yaml(recipe))

    def reopen(self) -> None:
        """Take back that the run has ended, so that it is ended again."""
        self._summary.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed; the caller keeps other trainings away."""
        for folder in {self.path, self.last.parent}:
            clear_leftovers(folder)

    def recipe(self) -> dict[str, Any]:
        """Return the recipe that the run was made with.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            content = parse_yaml(_read(self._recipe))
        except ValueError as error:
            raise DataError(
                f"{self._recipe} is damaged (not YAML: {error}); remove the run's folder and train again"
            ) from error
        return _mapping(content, self._recipe)

    def environment(self) -> dict[str, Any]:
        """Return versions and machine of the run; DataError where the file is missing or damaged."""
        return self._json(self._environment)

    def summary(self) -> dict[str, Any]:
        """Return what the run came to; DataError where it has not finished or the file is damaged."""
        content = self._json(self._summary)
        content.pop(_FILES, None)
        return content

    def metrics(self, *, most: int | None = None, every: int = 1) -> list[dict[str, Any]]:
        """Return one mapping for each epoch, in order; a last line cut off by an interruption is left out.

        Args:
            most: of a longer run, only every n-th epoch and the last, so that there are about as many; the rest of the
                file is checked all the same.
            every: n is a multiple of this, for instance of how often the run was evaluated.

        Raises:
            DataError: any other line is damaged, missing or there twice; the message names it. Or the run has ended,
                and the file has changed since.
        """
        if not self._metrics.exists():
            return []
        number, known = self._survey()
        step = 1 if most is None or number <= most else every * math.ceil(number / most / every)
        found, sealed = [], set()
        with self._metrics.open("rb") as file:
            # Every whole line ends in a newline, so what follows the last one is empty or was cut off while written.
            lines = iter(partial(file.readline, MAX_JSON), b"")
            for line, text in zip(range(1, number + 1), lines, strict=False):
                wanted = line % step == 0 or line == number
                if wanted or not known:  # a file that is as it was needs no look at each line
                    content, has_seal = self._line(text, line)
                    sealed.add(has_seal)
                    if wanted:
                        found.append(content)
        if sealed == {True, False}:
            raise DataError(f"{self._metrics} has lines without a checksum among others; {_AGAIN}")
        if sealed == {False}:
            checksums.note_unsealed()
        return found

    def _survey(self) -> tuple[int, bool]:
        """Return how many whole lines the metrics have, and whether they are known to be as the run left them."""
        known = self._noted().get(self._metrics) if self.ended else None
        number, found = 0, hashlib.sha256()
        try:
            with self._metrics.open("rb") as file:
                while block := file.read(1 << 20):
                    number += block.count(b"\n")
                    found.update(block)
        except OSError as error:
            raise DataError(_unreadable(self._metrics, error)) from error
        if known not in (None, found.hexdigest()):
            raise DataError(f"{self._metrics} has changed since the run finished; {_AGAIN}")
        return number, known is not None

    def append(self, metrics: Mapping[str, Any]) -> str:
        """Add one epoch's line; numbers that are not finite are written as null, as JSON has none.

        Returns:
            What was added, for :meth:`restore`.
        """
        line = _sealed(metrics) + b"\n"
        with self._metrics.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return line.decode()

    def epochs_noted(self) -> int:
        """How many epochs have a whole line in the metrics, sound or not."""
        return self._metrics.read_bytes().count(b"\n") if self._metrics.is_file() else 0

    def restore(self, lines: str) -> bool:
        """Let the metrics be those that a checkpoint has kept; the lines of epochs that will run again are dropped.

        Args:
            lines: what :meth:`append` returned, of all epochs that are done.

        Returns:
            Whether lines of these epochs were missing or had changed.
        """
        kept = lines.encode()
        there = self._metrics.read_bytes() if self._metrics.exists() else b""
        if there != kept:
            write_atomically(self._metrics, kept)
        return not there.startswith(kept)

    def rewind(self, epoch: int) -> str:
        """Drop the lines of epochs that will run again, where the checkpoint has kept none of them.

        Args:
            epoch: the number of epochs done; the lines up to and with this ``epoch`` stay.

        Returns:
            The lines that stay, for :meth:`restore`.

        Raises:
            DataError: some of these lines are missing, so the run could not be told whole; or a line is damaged.
        """
        kept = self.metrics()[:epoch]
        if len(kept) < epoch:
            raise DataError(
                f"{self._metrics} has lines for {len(kept)} epochs, but the run's checkpoint has {epoch} behind it; "
                "restore the file, or train afresh (--fresh), which keeps the folder"
            )
        lines = b"".join(_sealed(line) + b"\n" for line in kept).decode()
        self.restore(lines)
        return lines

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, in one piece, with the checksums of the other files: from here on the run has ended."""
        noted = {_FILES: {file.name: digest(file) for file in self._kept if file.exists()}}
        write_atomically(self._summary, _sealed({**summary, **noted}, indent=2))

    def _noted(self) -> dict[Path, str | None]:
        """Return the files of a run that has ended, with the SHA-256 of each where its version wrote them down."""
        noted = self._json(self._summary).get(_FILES)
        if noted is None:  # of an earlier version
            return dict.fromkeys((self.student, self._metrics))
        names = _mapping(noted, self._summary, f", {_FILES},")
        return {file: names[file.name] for file in self._kept if file.name in names}

    def _json(self, path: Path) -> dict[str, Any]:
        content, sealed = _from_json(_read(path), path)
        if not sealed:
            checksums.note_unsealed()
        return content

    def _line(self, line: bytes, number: int) -> tuple[dict[str, Any], bool]:
        try:
            content, sealed = _from_json(line.decode(), self._metrics, line=number)
        except UnicodeDecodeError as error:
            raise DataError(_unreadable(self._metrics, error)) from error
        if content.get("epoch") != number:
            raise DataError(
                f"{self._metrics}, line {number}, is of epoch {content.get('epoch')}, so lines are missing or there "
                f"twice; {_AGAIN}"
            )
        return content, sealed


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _plain_yaml(recipe: Mapping[str, Any]) -> bytes:
    text: str = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    return text.encode()


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; is {path.parent} the folder of a run that got that far?") from error
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({error}); restore it, or remove the run's folder and train again"


def _mapping(content: Any, path: Path, where: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(
            f"{path}{where} is damaged (not a mapping); restore it, or remove the run's folder and train again"
        )
    return content


def _from_json(text: str, path: Path, *, line: int | None = None) -> tuple[dict[str, Any], bool]:
    """Read a mapping, and compare it with its checksum where it carries one, which the second value tells."""
    where = "" if line is None else f", line {line},"
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(
            f"{path}{where} is damaged (not JSON: {error}); restore it, or remove the run's folder and train again"
        ) from error
    mapping = _mapping(content, path, where)
    try:
        return mapping, checksums.unseal(text, mapping)
    except ValueError as error:
        raise DataError(f"{path}{where} is damaged ({error}); {_AGAIN}") from error


def _damage(path: Path, known: str | None) -> str:
    """Say what is wrong with a file of a run that has ended; empty where nothing is."""
    if not path.exists():
        return "is missing"
    if not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        return "is no file"
    try:
        return "" if known in (None, digest(path)) else "has changed since the run finished"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def finite(value: Any) -> Any:
    """Return plain values as JSON can hold them: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _to_json(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    text = json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace")  # a name's byte that is not text, in the way that JSON writes it


def _sealed(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    return checksums.seal(_to_json(content, indent=indent).decode()).encode()
