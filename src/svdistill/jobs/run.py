"""A run that was made: its folder, read back."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdistill import recipes
from svdistill.atomic import digest, locked, write_atomically
from svdistill.errors import DataError, SvdistillError
from svdistill.records import RunRecord

if TYPE_CHECKING:
    from torch import nn

    from svdistill.recipes.images import Images

TEACHER = "teacher"


class BusyError(DataError):
    """Another process is training this run; a caller that has other work can do that first."""


class Run:
    """The folder of one run.

    Attributes:
        path: the folder.
        record: reads and writes the files in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.record = RunRecord(self.path)

    @classmethod
    def of(cls, recipe: recipes.Recipe, runs: str | os.PathLike[str]) -> "Run":
        """Return the run of a recipe, whether it has been trained or not.

        Args:
            recipe: what is trained.
            runs: folder of all runs.
        """
        return cls(Path(runs) / recipe.name / recipes.identity(recipe))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.record.finished

    @property
    def recipe(self) -> recipes.Recipe:
        """The full recipe; DataError or RecipeError where its file is missing or damaged."""
        try:
            return recipes.validate(self.record.recipe())
        except SvdistillError as error:
            raise type(error)(f"{self.path}: {error}") from error

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping an epoch; DataError where a line is damaged."""
        return self.record.metrics()

    @property
    def summary(self) -> dict[str, Any]:
        """What the run came to; DataError where it has not finished."""
        return self.record.summary()

    @property
    def student_file(self) -> Path:
        """The trained network alone, with the weights after the last epoch."""
        return self.record.student

    def student(self) -> "nn.Module":
        """Load the trained network, in eval mode, on the CPU.

        Raises:
            DataError: the run has not finished.
            CheckpointError: the file is missing or damaged.
        """
        from svdistill import nets

        if not self.finished:
            raise DataError(f"the run {self.path} has not finished; call the same training again to resume it")
        return nets.load(self.student_file)

    def set_aside(self) -> Path | None:
        """Rename the folder, so that the run can be trained afresh and nothing is lost.

        Returns:
            Where it is now; None where there was none.
        """
        return self.record.set_aside()

    @contextmanager
    def locked(self, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep other processes from training this run at the same time.

        The lock is that of :func:`svdistill.atomic.locked`, so the folder itself can be renamed.

        Args:
            waiting: called once where another process has the lock, which is then waited for; None raises instead.

        Raises:
            BusyError: another process trains this run.
            DataError: the folder of runs cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path, wait=waiting is not None, waiting=waiting))
            except BlockingIOError as error:
                raise BusyError(
                    f"the run {self.path} is being trained by another process; wait until that has ended"
                ) from error
            except OSError as error:
                reason = error.strerror or error
                raise DataError(
                    f"cannot write to the folder of runs, {self.path.parent} ({reason}); choose another with --runs"
                ) from error
            yield

    def check_data(self, images: "Images") -> None:
        """Make sure that a run is resumed or reused only for the images that it was begun with.

        Args:
            images: what would be trained on now.

        Raises:
            DataError: the run's images were others.
        """
        file = self.record.data
        try:
            known = json.loads(file.read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged; train afresh (--fresh), which keeps the folder") from error
        if {key: value for key, value in known.items() if key != TEACHER} != fingerprint(images):
            raise DataError(
                f"the run {self.path} was made with other images of the same name; train afresh (--fresh) or choose "
                "another runs folder"
            )

    def check_teacher(self, file: Path | None) -> None:
        """Make sure that a run is resumed with the teacher that it was begun with.

        Args:
            file: the teacher's weights now; None without a teacher.

        Raises:
            DataError: the teacher was another.
        """
        try:
            known = json.loads(self.record.data.read_text()).get(TEACHER)
        except (OSError, ValueError):
            return  # of an earlier version, or reported by `check_data`
        if known is not None and known != _digest(file):
            raise DataError(
                f"the run {self.path} was begun with another teacher than {file}, which was trained again since; train "
                "afresh (--fresh)"
            )

    def note_data(self, images: "Images", teacher_file: Path | None) -> None:
        """Write down which images and which teacher the run is made with."""
        noted = {**fingerprint(images), TEACHER: _digest(teacher_file)}
        write_atomically(self.record.data, json.dumps(noted).encode())


def _digest(file: Path | None) -> str | None:
    return None if file is None else digest(file)


def fingerprint(images: "Images") -> dict[str, Any]:
    """Return what tells data sets apart: labels and shapes, which unlike resized pixels no version of torch changes."""
    sets = (images.train, images.test, *([] if images.unlabelled is None else [images.unlabelled]))
    labels = hashlib.sha256(b"".join(part.labels.cpu().numpy().astype("<i8").tobytes() for part in sets))
    return {
        "labels": labels.hexdigest(),
        "shapes": [[len(part), *part.shape] for part in sets],
        "classes": list(images.train.classes),
    }
