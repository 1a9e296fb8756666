"""What is compared, and how far it is: one member for each run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdistill import recipes
from svdistill.errors import SvdistillError
from svdistill.jobs.run import Run
from svdistill.methods import TEACHER
from svdistill.names import brief_settings
from svdistill.sweep.scheduler import Outcome


@dataclass
class Member:
    """One run of a comparison.

    Attributes:
        method: its method, or ``teacher``.
        axes: its values of the settings that vary, without those that mean nothing to its method.
        seed: its seed.
        recipe: what is trained.
        run: its folder.
        state: ``new``, ``begun`` (an earlier call was interrupted), ``running``, ``finished``, ``failed``, or
            ``unneeded`` for a teacher that is not there but whose students have all finished.
        error: one line on what went wrong.
        trace: the traceback of an unexpected error.
        summary: the run's summary, once it has finished.
        found: whether it had finished before this call.
    """

    method: str
    axes: Mapping[str, Any]
    seed: int
    recipe: recipes.Recipe
    run: Run
    state: str = "new"
    error: str | None = None
    trace: str | None = None
    summary: Mapping[str, Any] | None = None
    found: bool = False

    def settle(self, outcome: Outcome) -> None:
        """Note how the run ended, and read its summary.

        Args:
            outcome: how its task ended; where it succeeded, a summary that cannot be read is a failure, too.
        """
        self.error, self.trace = outcome
        if self.error is None:
            try:
                self.summary = self.run.summary
            except SvdistillError as damage:
                self.error = str(damage)
        self.state = "finished" if self.error is None else "failed"

    def unsettle(self) -> None:
        """Take a run that had finished for one to be taken up again; any other stays as it is."""
        if self.state == "finished":
            self.state, self.summary, self.found = "begun", None, False

    @property
    def key(self) -> str:
        """Identifies the run: its folder, as text."""
        return str(self.run.path)

    def taught_by(self, runs: Path) -> tuple[str, ...]:
        """Identify the runs of its teacher, its teacher's teacher and so on, in a folder of runs."""
        return tuple(str(Run.of(recipe, runs).path) for recipe in recipes.lineage(self.recipe)[1:])

    @property
    def title(self) -> str:
        """Method, settings that vary, and seed in a few words."""
        method = self.recipe.name if self.method == TEACHER else self.method
        return " ".join([method, *brief_settings(self.axes), f"seed {self.seed}"])

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "method": self.method,
            "recipe": self.recipe.name,
            "axes": dict(self.axes),
            "seed": self.seed,
            "folder": str(self.run.path),
            "state": self.state,
            "error": self.error,
            "trace": self.trace,
            "summary": self.summary,
        }


@dataclass
class Comparison:
    """What is compared, and the results so far.

    Attributes:
        recipe: name or path of the recipe.
        overrides: settings of all runs, as ``key=value`` texts.
        methods: in the order they were asked for.
        seeds: in the order they were asked for.
        axes: the settings that vary, with their values.
        runs: folder of all runs.
        members: every run, teachers first, then seed by seed.
    """

    recipe: str
    overrides: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    runs: Path
    members: list[Member] = field(default_factory=list)

    @property
    def failed(self) -> list[Member]:
        """The runs that have failed."""
        return [member for member in self.members if member.state == "failed"]

    def record(self) -> dict[str, Any]:
        """Return everything as plain values, for ``report.comparison`` and for files."""
        return {
            "recipe": self.recipe,
            "overrides": list(self.overrides),
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "axes": {key: list(values) for key, values in self.axes.items()},
            "runs": [member.record() for member in self.members],
        }
