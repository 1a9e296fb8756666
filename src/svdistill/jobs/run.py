"""A run that was made: its folder, read back."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

from svdistill import checksums, recipes
from svdistill.atomic import digest, locked, write_atomically
from svdistill.errors import DataError, SvdistillError, SvdistillWarning
from svdistill.plain import parse_json, read_text
from svdistill.records import RunRecord

if TYPE_CHECKING:
    from torch import nn

    from svdistill.recipes.images import Images

TEACHER = "teacher"
PIXELS = "pixels"
WEIGHTS = "weights"
CODE = "code"
_TITLES = {"shapes": "number or size", "classes": "class names", "labels": "labels"}
_SETS = {
    "train": "training images",
    "test": "test images",
    "unlabelled": "images without labels",
    "validation": "validation images",
    "statistics": "images behind mean and deviation",
}
# What must be in the file that says which images and which teacher a run was made with; the rest came later.
_FORM = {"labels": str, "shapes": list, "classes": list, PIXELS: dict | None, TEACHER: str | None, CODE: dict | None}
_AFRESH = "train it afresh (--fresh, or rename its folder)"


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
    def whole(self) -> bool:
        """Whether the run came to its end and each of its files is there and sound; reads all of them."""
        return self.finished and not self.record.damage()

    @property
    def recipe(self) -> recipes.Recipe:
        """The full recipe, without leave to run code; DataError or RecipeError where its file is missing or damaged."""
        try:
            return recipes.validate({**self.record.recipe(), "allow_code": False})
        except SvdistillError as error:
            raise type(error)(f"{self.path}: {error}") from error

    @property
    def has_its_recipe(self) -> bool:
        """Whether the file of the recipe is that of this run, whose folder is called after what decides its result."""
        try:
            return recipes.identity(self.recipe) == self.path.name
        except SvdistillError:
            return False

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping an epoch; DataError where a line is damaged."""
        return self.record.metrics.read()

    @property
    def summary(self) -> dict[str, Any]:
        """What the run came to; DataError where it has not finished."""
        return self.record.summary()

    @property
    def teacher(self) -> "Run | None":
        """The run of the teacher's recipe; None where there is no teacher, or where it is a file or from outside."""
        recipe = self.recipe
        parent = recipes.teacher_of(recipe)
        if parent is None:
            return None
        # <runs>/<recipe name>/<seed>-<digest>
        return Run.of(parent, self.path.resolve().parents[len(Path(recipe.name).parts)])

    @property
    def student_file(self) -> Path:
        """The trained network alone, as it was after the last epoch, or with ``data.validation`` after the best one."""
        return self.record.student

    def student(self, *, allow_code: bool = False) -> "nn.Module":
        """Load the trained network, in eval mode, on the CPU.

        Args:
            allow_code: whether the code that it is made of, a class of somebody's own, may be imported and run.

        Raises:
            DataError: the run has not finished.
            CheckpointError: the file is missing or damaged.
            OptionError: the network is made of code, which may not run.
        """
        from svdistill import nets

        if not self.finished:
            raise DataError(f"the run {self.path} has not finished; call the same training again to resume it")
        return nets.load(self.student_file, allow_code=allow_code)

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

    def check_made_with(self, images: "Images", teacher: "Run | None") -> None:
        """Make sure that a run is what its recipe would come to now: made with these images, and by this teacher.

        Args:
            images: what would be trained on now.
            teacher: the run of its teacher's recipe, which counts where it has ended, even if its files are damaged
                now, since they are then made again; None where there is none.

        Raises:
            DataError: images or teacher were others, or what the run says of them is damaged.
        """
        self.check_data(images)
        if teacher is not None and (now := teacher.record.student_digest()) is not None:
            self._check_teacher(now, teacher.student_file)

    def check_data(self, images: "Images") -> None:
        """Make sure that a run is resumed or reused only for the images that it was begun with.

        A run of an earlier version knows less of its images; that is compared, and a warning says so.

        Args:
            images: what would be trained on now.

        Raises:
            DataError: the run's images were others, or what it says of them is damaged.
        """
        known = self._noted()
        if known is None and not self.record.exists:
            return
        if not known or not known.get(PIXELS):
            warn(
                "a run of an earlier version does not say what its images were, so that at most their labels, number, "
                "size and classes were compared; where they may have been others, train it afresh (--fresh)",
                SvdistillWarning,
                stacklevel=2,
            )
        if known and (differing := _differing(known, fingerprint(images))):
            raise DataError(
                f"the run {self.path} was made with other images of the same name (other {', '.join(differing)}); "
                f"take another folder of runs (--runs), or {_AFRESH}"
            )

    def check_teacher(self, file: Path | None) -> None:
        """Make sure that a run is resumed or reused only for the teacher that it was begun with.

        Args:
            file: the teacher's weights now; None without a teacher.

        Raises:
            DataError: the teacher was another, or what the run says of it is damaged.
        """
        self._check_teacher(_digest(file), file)

    def _check_teacher(self, now: str | None, file: Path | None) -> None:
        known = self._noted() or {}
        if known.get(TEACHER) not in (None, now):
            raise DataError(
                f"the run {self.path} was begun with another teacher: {file} was trained again, or changed, since; "
                f"{_AFRESH}"
            )

    @property
    def learned_from(self) -> str | None:
        """The digest of its teacher's weights; None without a teacher. DataError where what it says is damaged."""
        return (self._noted() or {}).get(TEACHER)

    def check_code(self, sources: Mapping[str, Path]) -> Path | None:
        """Make sure that a run is resumed only with the code that it was begun with.

        Args:
            sources: as `own_code` returns them.

        Returns:
            The file of a run that has ended which has changed since; None where none has.

        Raises:
            DataError: there is a checkpoint to resume from, and the code was other; or what the run says is damaged.
        """
        noted = (self._noted() or {}).get(CODE) or {} if sources else {}
        changed = next(((n, file) for n, file in sources.items() if noted.get(n) not in (None, digest(file))), None)
        if changed is None:
            return None
        if self.record.ended:
            return changed[1]
        if self.record.resumable:
            raise DataError(
                f"the run {self.path} was begun with other code: {changed[1]}, the code of {changed[0]}, has changed "
                f"since; put it back, or {_AFRESH}"
            )
        return None

    def check_weights(self, now: str | None) -> None:
        """Make sure that a run is resumed only with the weights that its network began with.

        Args:
            now: their checksum; None where its settings alone decide them.

        Raises:
            DataError: they were others, or what the run says of them is damaged.
        """
        if (self._noted() or {}).get(WEIGHTS) not in (None, now):
            raise DataError(
                f"the run {self.path} was begun with other weights: its code has changed, or what lies in the cache or "
                f"hub of its library; {_AFRESH}"
            )

    def note_data(
        self,
        images: "Images",
        teacher_file: Path | None,
        *,
        weights: str | None = None,
        sources: Mapping[str, Path] | None = None,
    ) -> None:
        """Write down what a run is made with; DataError where that cannot be written.

        Args:
            images: what it is trained on.
            teacher_file: its teacher's weights; None without a teacher.
            weights: the checksum of those that its network begins with; None where its settings alone decide them.
            sources: as `own_code` returns them; None where there are none.
        """
        noted = {**fingerprint(images), TEACHER: _digest(teacher_file)}
        if weights is not None:
            noted[WEIGHTS] = weights
        if sources:
            noted[CODE] = {name: digest(file) for name, file in sources.items()}
        try:
            write_atomically(self.record.data, checksums.seal(json.dumps(noted)).encode())
        except OSError as error:
            raise DataError(
                f"cannot write to the run folder {self.path}: {error.strerror or error}; free the disk, or choose "
                "another folder of runs (--runs)"
            ) from error

    def _noted(self) -> dict[str, Any] | None:
        """Return what `note_data` has written; None where there is nothing."""
        file = self.record.data
        try:
            text = read_text(file)
            known = parse_json(text)
            if not isinstance(known, dict) or not all(isinstance(known.get(key), kind) for key, kind in _FORM.items()):
                raise ValueError("of another form")
            checksums.unseal(text, known)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged, so that nothing says what the run was made with; {_AFRESH}") from error
        return known


def warn_of_code(which: str, changed: Path, *, remedy: str) -> None:
    """Warn of runs that have ended and were made with other code.

    Args:
        which: the runs, up to the verb.
        changed: the file that has changed since, see `Run.check_code`.
        remedy: how they are trained again.
    """
    text = f"{which} made with other code: {changed} has changed since; where that matters, {remedy}"
    warn(text, SvdistillWarning, stacklevel=3)


def own_code(recipe: recipes.Recipe) -> dict[str, Path]:
    """Return the files of somebody's own code that a student, or its teacher from outside, is made of, by name."""
    from svdistill.nets.libraries.own import source_file

    outside = recipe.teacher.model if recipe.teacher is not None else None
    found = {name: source_file(name) for name in (recipe.model.name, *(() if outside is None else (outside.name,)))}
    return {name: file for name, file in found.items() if file is not None}


def _digest(file: Path | None) -> str | None:
    return None if file is None else digest(file)


def fingerprint(images: "Images") -> dict[str, Any]:
    """Return what tells the images of runs apart: their labels, shapes and classes, and what is in them."""
    sets = images.sets.values()
    labels = hashlib.sha256(b"".join(part.labels.cpu().numpy().astype("<i8").tobytes() for part in sets))
    return {
        "labels": labels.hexdigest(),
        "shapes": [[len(part), *part.shape] for part in sets],
        # A name that is not UTF-8 could not be read back.
        "classes": [name.encode(errors="backslashreplace").decode() for name in images.train.classes],
        PIXELS: images.fingerprints,
    }


def _differing(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what of the images differs; of a run of an earlier version, what it knows of them."""
    before, after = known.get(PIXELS) or now[PIXELS], now[PIXELS]
    return [
        *(title for key, title in _TITLES.items() if known[key] != now[key]),
        *(title for key, title in _SETS.items() if before.get(key) != after.get(key)),
    ]
