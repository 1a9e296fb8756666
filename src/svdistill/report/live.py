"""The page of runs that are still training: the report of those that have finished, with the others on top."""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from svdistill.errors import SvdistillError
from svdistill.report import collect, figures, page, progress
from svdistill.report.collect import Key, RunView
from svdistill.report.context import Picture
from svdistill.report.figures import Line
from svdistill.report.methods import Look, looks
from svdistill.report.page import Live, LiveRow
from svdistill.report.progress import Found, Stamp, Underway
from svdistill.report.svg import NARROW, WIDE, Frame
from svdistill.report.tables import percent, plural, seconds

T = TypeVar("T")

SCRIPT = Path(__file__).with_name("live.js").read_text(encoding="utf-8")
# What a browser is told to let run on the page: this script alone.
SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
PAUSE = 3.0  # seconds in which the files are not looked at again
_SHARE = 3.0  # times what making the page took of a processor
_FIRST_LOOK = 128  # the report's methods have the numbers before
_RENEWED = 30.0  # seconds after which the time that is left is told anew
MAX_CURVES = 24  # more are not told apart
MAX_PROBLEMS = 10


class Version(NamedTuple):
    """A state of the page.

    Attributes:
        name: differs from that of every other state.
        html: the page.
    """

    name: str
    html: bytes


class LiveReport:
    """A page that is made anew when it is asked for and files have changed; only changed files are read.

    Args:
        paths: run folders, folders of runs, or ``comparison.json`` files; they may not be there yet.
        pause: seconds in which it is not made again, however often it is asked for.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, paths: Sequence[Path], *, pause: float = PAUSE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths, self._pause, self._clock = paths, pause, clock
        self._asked, self._pen = threading.Lock(), threading.Lock()
        self._again = 0.0
        self._seen: Any = None
        self._current: Version | None = None
        self._number, self._name = 0, secrets.token_hex(4)
        self._views: dict[Path, tuple[Stamp, RunView | str]] = {}
        self._progress: dict[Path, tuple[Stamp, Underway | str]] = {}
        self._shown: tuple[Any, dict[str, Any]] | None = None
        self._artist: threading.Thread | None = None
        self._curves: Picture | None = None

    def current(self) -> Version:
        """Return the page as it is now, or was a few seconds ago."""
        with self._asked:
            if self._current is None or self._clock() >= self._again:
                began = time.thread_time()
                self._look()
                self._again = self._clock() + max(self._pause, _SHARE * (time.thread_time() - began))
            assert self._current is not None
            return self._current

    def _look(self) -> None:
        found = progress.look(self._paths)
        under_way = self._under_way(found)
        shown = self._finished(found)
        states = [one.training for one in under_way if isinstance(one, Underway)]
        seen = (found, states, id(shown), int(self._clock() / _RENEWED) if any(states) else None)
        if self._current is not None and seen == self._seen:
            return
        self._seen = seen
        self._number += 1
        version = f"{self._name}-{self._number}"
        # The figures of the report may be on the easel just now, which takes long: then the curves are a little older.
        if self._pen.acquire(blocking=self._current is None):
            try:
                self._curves = _curves(_runs(under_way), _looks(under_way))
            finally:
                self._pen.release()
        live = _live(version, found, under_way, self._curves)
        html = page.fill(shown, made=time.strftime("%Y-%m-%d %H:%M:%S"), live=live)
        self._current = Version(version, html.encode(errors="backslashreplace"))

    def _under_way(self, found: Found) -> list[Underway | str]:
        """Return each run that has not ended, or what is wrong with it."""
        kept = {path: one for path, one in self._progress.items() if path in found.open}
        for path, stamp in found.open.items():
            if path not in kept or kept[path][0] != stamp:
                kept[path] = stamp, _sound(progress.read, path)
        self._progress = kept
        return [one if isinstance(one, str) else one.now() for _, one in kept.values()]

    def _finished(self, found: Found) -> dict[str, Any]:
        """Return what the report shows; where a run has finished since, its figures are drawn again meanwhile."""
        key = (found.ended, found.failed, tuple(found.not_begun))
        if self._shown is None:
            self._draw(found, key)
        elif self._shown[0] != key and (self._artist is None or not self._artist.is_alive()):
            self._artist = threading.Thread(target=self._draw, args=(found, key), daemon=True)
            self._artist.start()
        assert self._shown is not None
        return self._shown[1]

    def _draw(self, found: Found, key: Any) -> None:
        self._views = {path: one for path, one in self._views.items() if path in found.ended}
        for path, stamp in found.ended.items():
            if path not in self._views or self._views[path][0] != stamp:
                self._views[path] = stamp, _sound(collect.read, path)
        views = [one for _, one in self._views.values() if isinstance(one, RunView)]
        wrong = {str(path): f"cannot be read ({one})" for path, (_, one) in self._views.items() if isinstance(one, str)}
        wrong |= {str(path): f"failed ({error})" for path, error in found.failed.items()}
        if views:
            with self._pen:
                shown = page.contents(page.context_of(collect.arrange(views, wrong)))
        else:
            shown = page.no_contents("Waiting for the first run to finish", sorted(wrong.items()))
        self._shown = key, shown


def _sound(read: Callable[[Path], T], path: Path) -> T | str:
    """Read a run, or say what is wrong with it."""
    try:
        return read(path)
    except (SvdistillError, OSError) as error:
        return str(error)


def _live(version: str, found: Found, under_way: Sequence[Underway | str], curves: Picture | None) -> Live:
    runs, drawn = _runs(under_way), _looks(under_way)
    broken = [one for one in under_way if isinstance(one, str)]
    problems = [*found.missing, *broken]
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"… and {len(problems) - MAX_PROBLEMS} more"]
    return Live(
        version=version,
        lead=_lead(found, runs, len(broken)),
        rows=[_row(run, drawn[Key(run.method)]) for run in runs],
        looks=list(drawn.values()),
        curves=curves if runs else None,
        problems=problems,
        script=Markup(SCRIPT),
    )


def _runs(under_way: Sequence[Underway | str]) -> list[Underway]:
    """Return the sound ones, those that train first."""
    runs = [one for one in under_way if isinstance(one, Underway)]
    return sorted(runs, key=lambda one: (not one.training, str(one.path)))


def _looks(under_way: Sequence[Underway | str]) -> dict[Key, Look]:
    keys = dict.fromkeys(Key(run.method) for run in _runs(under_way))
    chosen = looks(sorted(keys, key=collect.method_order)).items()
    return {key: look._replace(variable=f"--method-{number}") for number, (key, look) in enumerate(chosen, _FIRST_LOOK)}


def _lead(found: Found, runs: Sequence[Underway], broken: int) -> str:
    """Say how many runs have finished, train, wait, and how long it will take."""
    training = [run for run in runs if run.training]
    total = len(found.ended) + len(found.open) + len(found.not_begun)
    if not total:
        return "Nothing is here yet: as soon as a training writes its first file, its run stands here."
    parts = [f"{len(found.ended)} of {plural(total, 'run')} {'has' if len(found.ended) == 1 else 'have'} finished"]
    counts = (
        (len(training), "training now"),
        (len(runs) - len(training), "interrupted"),
        (len(found.not_begun), "yet to begin"),
        (broken, "damaged"),
    )
    parts += [f"{number} {what}" for number, what in counts if number]
    lefts = [run.left for run in training if run.left is not None]
    soon = f" Those that train now end in about {seconds(max(lefts))}." if lefts and len(lefts) == len(training) else ""
    return f"{', '.join(parts)}.{soon} As of {time.strftime('%H:%M:%S')}; renewed by itself."


def _row(run: Underway, look: Look) -> LiveRow:
    return LiveRow(
        look=look,
        name=f"{run.name} seed {run.seed}",
        state="training" if run.training else "interrupted",
        done=run.done,
        epochs=max(run.epochs, run.done, 1),
        accuracy=percent(run.accuracy),
        loss="–" if run.loss is None else f"{run.loss:.3f}",
        left=seconds(run.left),
    )


def _curves(runs: Sequence[Underway], drawn: Mapping[Key, Look]) -> Picture | None:
    """Draw the accuracy of each run so far; None where nothing has been measured."""
    lines = [Line(drawn[Key(run.method)], run.curve[0], [run.curve[1]]) for run in runs if len(run.curve[0]) > 1]
    if not lines:
        return None

    def draw(name: str, width: int) -> Markup:
        frame = Frame(name, "Accuracy so far", width, height=320 if width == WIDE else 260)
        return Markup(figures.curves(lines[:MAX_CURVES], frame, scale=100))

    some = f" Of {len(lines)} runs, the first {MAX_CURVES} are drawn." if len(lines) > MAX_CURVES else ""
    note = f"In percent, one line a run.{some}"
    return Picture("Accuracy so far", draw("livew", WIDE), draw("liven", NARROW), note)
