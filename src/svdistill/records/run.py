"""The folder of one run: which files it has, and whether they are whole."""

import os
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from svdistill.atomic import clear_leftovers, digest, write_atomically
from svdistill.errors import DataError
from svdistill.plain import MAX_JSON, parse_yaml
from svdistill.records.metrics import Metrics
from svdistill.records.provenance import environment
from svdistill.records.sealed import mapping, parse, read, sealed, text_of

_RECIPE = "recipe.yaml"
_FILES = "files"  # where the summary names the run's other files, each with its SHA-256
# A run that was renamed to make room for a fresh one: its seed and digest, then when that was.
_SET_ASIDE = re.compile(r"\.\d{8}-\d{6}(\.\d+)?$")


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
        self.metrics = Metrics(self.path / "metrics.jsonl", self._metrics_digest)
        self._recipe = self.path / _RECIPE
        self._environment = self.path / "environment.json"
        self._summary = self.path / "summary.json"
        # Those of which the summary has a checksum.
        self._kept = (self._recipe, self.data, self.metrics.path, self.student, self.diagnostics)

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
            write_atomically(record._environment, sealed(environment(), indent=2))
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

    @property
    def resumable(self) -> list[Path]:
        """The checkpoints that there are to resume from, the last first, whole or not."""
        there = [path for path in (self.last, self.previous, self.best) if path.exists()]
        # The best alone was left by a kill in the first epoch: such a run begins again. Later, the others were lost.
        return [] if there == [self.best] and self.metrics.count() <= 1 else there

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
    def is_ours(self) -> bool:
        """Whether a file in the folder says by its checksum that svdistill wrote it: the names alone are anybody's."""
        return any(map(_is_sealed, (self._environment, self._summary, self.metrics.path)))

    def own_files(self) -> list[Path]:
        """Return the files of the folder that a training writes; whatever else lies there is somebody's work."""
        single = (*self._kept, self._environment, self._summary, self.post_mortem)
        parts = (*self.checkpoints.glob("*.pt"), *self.tensorboard.rglob("*"), *self.trackers.glob("*.json"))
        return [file for file in (*single, *sorted(parts)) if file.is_file() or file.is_symlink()]

    def remove(self) -> None:
        """Remove the files that a training writes, and the folders that are empty then.

        Raises:
            OSError: one of them cannot be removed.
        """
        self.clear_leftovers()
        for file in self.own_files():
            file.unlink()
        inner = [path for path in sorted(self.tensorboard.rglob("*"), reverse=True) if path.is_dir()]
        for folder in (*inner, self.tensorboard, self.trackers, self.checkpoints, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

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
            large: whether the network and the metrics are read too; reading the metrics compares these itself.

        Returns:
            By name of a file what is wrong with it; {} where the run is whole.
        """
        try:
            noted = self._noted()
        except DataError:
            return {self._summary.name: "is damaged"}
        looked_at = {
            file: known for file, known in noted.items() if large or file not in (self.student, self.metrics.path)
        }
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

    def has_whole_student(self) -> bool:
        """Whether the trained network is there, and nothing says that it has changed since the run ended."""
        known = self.student_digest()
        return known is not None and not _damage(self.student, known)

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
            content = parse_yaml(text_of(self._recipe))
        except ValueError as error:
            raise DataError(
                f"{self._recipe} is damaged (not YAML: {error}); remove the run's folder and train again"
            ) from error
        return mapping(content, self._recipe)

    def environment(self) -> dict[str, Any]:
        """Return versions and machine of the run; DataError where the file is missing or damaged."""
        return read(self._environment)

    def summary(self) -> dict[str, Any]:
        """Return what the run came to; DataError where it has not finished or the file is damaged."""
        content = read(self._summary)
        content.pop(_FILES, None)
        return content

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, in one piece, with the checksums of the other files: from here on the run has ended."""
        noted = {_FILES: {file.name: digest(file) for file in self._kept if file.exists()}}
        write_atomically(self._summary, sealed({**summary, **noted}, indent=2))

    def _noted(self) -> dict[Path, str | None]:
        """Return the files of a run that has ended, with the SHA-256 of each where its version wrote them down."""
        noted = read(self._summary).get(_FILES)
        if noted is None:  # of an earlier version
            return dict.fromkeys((self.student, self.metrics.path))
        names = mapping(noted, self._summary, f", {_FILES},")
        return {file: names[file.name] for file in self._kept if file.name in names}

    def _metrics_digest(self) -> str | None:
        return self._noted().get(self.metrics.path) if self.ended else None


def _plain_yaml(recipe: Mapping[str, Any]) -> bytes:
    text: str = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    return text.encode()


def _is_sealed(path: Path) -> bool:
    """Whether a JSON file, or its first line, carries a checksum that agrees with it."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open(encoding="utf-8") as file:
            text = file.readline(MAX_JSON) if path.suffix == ".jsonl" else file.read(MAX_JSON)
        return parse(text, path)[1]
    except (DataError, OSError, ValueError):
        return False


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
