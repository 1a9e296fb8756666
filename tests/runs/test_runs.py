"""Listing, telling apart and cleaning runs, of which some are broken."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.report.runs import make_run

from svdistill import runs
from svdistill.atomic import locked
from svdistill.cli import app
from svdistill.errors import DataError, OptionError
from svdistill.records import RunRecord


def checkpoint(run: Path, *names: str) -> Path:
    """Give a run some checkpoints of 100 bytes."""
    (run / "checkpoints").mkdir()
    for name in names or ("last.pt", "best.pt"):
        (run / "checkpoints" / name).write_bytes(bytes(100))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a run in every state, and some that are damaged in several ways."""
    checkpoint(make_run(tmp_path, "alone", 0))
    checkpoint(make_run(tmp_path, "svd", 0))
    checkpoint(make_run(tmp_path, "alone", 1, finished=False))
    RunRecord(checkpoint(make_run(tmp_path, "alone", 2))).set_aside()
    for method, file in (("soft-target", "summary.json"), ("svd-k2", "recipe.yaml")):
        (make_run(tmp_path, method) / file).write_text("{{")
    (checkpoint(make_run(tmp_path, "svd", 7)) / "student.safetensors").unlink()
    next(tmp_path.glob("bags/soft-target/*/student.safetensors")).unlink()
    return tmp_path


def states(found: list[runs.RunInfo]) -> dict[str, str]:
    """Return the state of each run by the first part of its folder's name."""
    return {f"{run.path.parent.name}/{run.path.name.partition('-')[0]}": run.state for run in found}


def test_states(folder: Path) -> None:
    """Each run is told by its state; what is damaged says which file, and does not end the list."""
    found = runs.find(folder)
    assert states(found) == {
        "alone/0": "finished",
        "alone/1": "interrupted",
        "alone/2": "set-aside",
        "soft-target/0": "damaged",
        "svd/0": "finished",
        "svd/7": "damaged",
        "svd-k2/0": "damaged",
    }
    by_method = {run.path.parent.name: run for run in found if run.path.name.startswith("0-")}
    assert by_method["soft-target"].reason == "summary.json is damaged"
    assert "recipe.yaml has changed" in by_method["svd-k2"].reason
    assert by_method["svd-k2"].recipe is None
    whole = by_method["alone"]
    assert (whole.recipe, whole.method, whole.seed, whole.epochs, whole.of_epochs) == ("bags/alone", "alone", 0, 6, 6)
    assert whole.accuracy == pytest.approx(0.72)
    assert whole.checkpoint_bytes == 200
    assert whole.bytes == sum(file.stat().st_size for file in whole.path.rglob("*") if file.is_file())


def test_a_run_of_another_process_is_being_trained(folder: Path) -> None:
    """A lock tells, and looking leaves none behind."""
    run = runs.find(folder)[0].path
    before = {file.name for file in run.parent.iterdir()}
    runs.find(folder)
    assert {file.name for file in run.parent.iterdir()} == before
    with locked(run):
        assert runs.look(run).state == "training"
    assert runs.look(run).state == "finished"


def test_filter_and_sort(folder: Path) -> None:
    """By recipe, method, seed and state; the best first, or last."""
    found = runs.find(folder)
    assert {run.method for run in runs.select(found, runs.Filter(method="svd*"))} == {"svd"}
    assert {run.recipe for run in runs.select(found, runs.Filter(recipe="/svd"))} == {"bags/svd"}
    assert len(runs.select(found, runs.Filter(seed=0, state="finished"))) == 2
    best = runs.select(found, runs.Filter(state="finished"), sort="accuracy")
    assert [run.method for run in best] == ["svd", "alone"]
    assert runs.select(found, runs.Filter(state="finished"), sort="accuracy", reverse=True) == best[::-1]
    with pytest.raises(OptionError, match="did you mean 'finished'"):
        runs.Filter(state="finishd")
    with pytest.raises(OptionError, match="did you mean 'accuracy'"):
        runs.select(found, runs.Filter(), sort="acuracy")


def test_what_can_go(folder: Path) -> None:
    """Checkpoints of whole runs, what was set aside, and what no checkpoint mends; never an interrupted run."""
    found = {(one.kind, one.run.path.parent.name) for one in runs.removals(runs.find(folder))}
    assert found == {
        ("checkpoints", "alone"),
        ("checkpoints", "svd"),
        ("set-aside", "alone"),
        ("damaged", "soft-target"),
    }
    with pytest.raises(OptionError, match="did you mean 'checkpoints'"):
        runs.removals([], ["checkpoint"])


def test_checkpoints_stay_where_only_they_mend_a_run(folder: Path) -> None:
    """A network that has changed looks finished in a list, but its checkpoints do not go."""
    run = runs.find(folder)[0]
    (run.path / "student.safetensors").write_bytes(b"changed")
    assert runs.look(run.path).state == "finished"
    assert run.path not in [one.run.path for one in runs.removals(runs.find(folder))]


def test_remove(folder: Path) -> None:
    """What was shown is gone, all else is there; what another process has locked stays."""
    planned = runs.removals(runs.find(folder))
    held = planned[0].run.path
    with locked(held):
        removed = {one.path: runs.remove(one) for one in planned}
    assert [path for path, gone in removed.items() if not gone] == [held / "checkpoints"]
    assert (held / "checkpoints" / "last.pt").exists()
    assert states(runs.find(folder)) == {
        "alone/0": "finished",
        "alone/1": "interrupted",
        "svd/0": "finished",
        "svd/7": "damaged",
        "svd-k2/0": "damaged",
    }
    assert RunRecord(next(folder.glob("bags/svd/0-*"))).damage() == {}
    assert not list(folder.rglob(".*.2*.lock"))


def test_a_run_resumed_since_it_was_shown_stays(folder: Path) -> None:
    """What is removed is looked at again under the lock."""
    planned = next(one for one in runs.removals(runs.find(folder)) if one.kind == "checkpoints")
    RunRecord(planned.run.path).reopen()
    assert not runs.remove(planned)
    assert planned.path.exists()


def test_a_trained_network_stays(folder: Path) -> None:
    """A run whose other files are damaged keeps its network, with or without a summary that knows it."""
    run = next(folder.glob("bags/svd-k2/0-*"))
    for file in ("recipe.yaml", "summary.json"):
        (run / file).write_text("{{")
        assert runs.look(run).state == "damaged"
        assert run not in [one.path for one in runs.removals(runs.find(folder))]
    (run / "student.safetensors").unlink()
    assert run in [one.path for one in runs.removals(runs.find(folder))]


def test_what_a_user_has_put_beside_stays(folder: Path) -> None:
    """Notes and exports stay with their folder, in damaged runs and in those that were set aside."""
    planned = [one for one in runs.removals(runs.find(folder)) if one.kind != "checkpoints"]
    for one in planned:
        (one.path / "tensorboard").mkdir()
        (one.path / "tensorboard" / "events.out.tfevents.1").write_bytes(b"curves")
        (one.path / "notes.md").write_text("lr chosen by Ann")
        assert runs.remove(one)
        assert [file.name for file in one.path.iterdir()] == ["notes.md"]
    assert {one.kind for one in planned} == {"damaged", "set-aside"}


def test_somebodys_own_folder_stays(tmp_path: Path) -> None:
    """A broken recipe of one's own, and a folder with other runs in it, are never removed."""
    (tmp_path / "recipe.yaml").write_text("{{")
    assert [run.state for run in runs.find(tmp_path)] == ["damaged"]
    assert runs.removals(runs.find(tmp_path)) == []
    (tmp_path / "metrics.jsonl").touch()
    make_run(tmp_path)
    assert runs.removals(runs.find(tmp_path)) == []


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize("name", ["exp1", "exp1.20260101-120000"])
def test_folders_of_other_programs_stay(name: str, tmp_path: Path) -> None:
    """Whose files only have the names of ours, whatever lies beside them."""
    other = tmp_path / name
    other.mkdir()
    checkpoint(other)
    (other / "metrics.jsonl").write_text('{"step": 1, "loss": 0.3}\n')
    assert runs.removals(runs.find(tmp_path)) == []
    (other / "recipe.yaml").write_text("model: llama\n")
    for content in ('{"accuracy": 0.9}', '{"accuracy": 0.9, "checksum": "0123456789abcdef"}'):
        (other / "summary.json").write_text(content)
        (other / "environment.json").write_text(content)
        assert runs.removals(runs.find(tmp_path)) == []


def test_only_run(folder: Path) -> None:
    """The only run in a folder is found; of several, or none, one line tells."""
    run = next(folder.glob("bags/soft-target/0-*"))
    assert runs.only_run(run) == runs.only_run(run.parent) == run
    (only,) = folder.glob("bags/svd-k2/0-*")
    assert runs.only_run(only.parent) == only
    with pytest.raises(DataError, match=r"holds 2 runs; give the folder of one: 0-\w+, 7-\w+$"):
        runs.only_run(folder / "bags" / "svd")
    with pytest.raises(DataError, match="there is none in it"):
        runs.only_run(run / "nothing")


def test_differing_settings() -> None:
    """Only what differs, by dotted key; what one lacks is None."""
    first = {"name": "a", "seed": 0, "loss": {"name": "svd", "rank": 1}, "model": {"taps": ["x"]}}
    second = {"name": "b", "seed": 1, "loss": {"name": "svd"}, "model": {"taps": ["x"]}}
    assert runs.differing([first, second]) == {"seed": (0, 1), "loss.rank": (1, None)}


EACH_COMMAND = """
import sys
from svdistill.cli import app
for arguments in {calls!r}:
    assert app.run(["runs", *arguments]) == 0
assert "torch" not in sys.modules
"""


def test_commands_need_no_torch(folder: Path) -> None:
    """All four tell of the runs in a narrow terminal, and load no torch."""
    one, other = (str(next(folder.glob(f"bags/{name}/0-*")).relative_to(folder)) for name in ("alone", "svd"))
    calls = [("list", "."), ("show", one), ("compare", one, other), ("clean", ".", "--yes")]
    done = subprocess.run(
        [sys.executable, "-c", EACH_COMMAND.format(calls=calls)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    for words in (
        "interrupted",
        "summary.json is damaged",
        "7 runs",
        "bags/alone, seed 0",
        "student.safetensors",
        "settings that differ",
        "machine: the same",
        "alignment",
        "a fresh run",
        "freed",
    ):
        assert words in told, done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 50  # sentences go on; tables do not


class Terminal(io.StringIO):
    """Somebody at a terminal, who types."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(("answer", "stays"), [("n", True), ("y", False)])
def test_clean_does_what_is_answered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, stays: bool
) -> None:
    """No removes nothing, and is no error."""
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    damaged = next(folder.glob("bags/soft-target/0-*"))
    assert app.run(["runs", "clean", str(folder)]) == 0
    assert damaged.exists() == stays
    assert ("nothing is removed" in capsys.readouterr().out) == stays


def test_clean_asks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal to ask in, nothing is removed and the status is 2; as JSON it is only told."""
    before = sorted(folder.rglob("*"))
    assert app.run(["runs", "clean", str(folder)]) == 2
    assert capsys.readouterr().err.endswith("add --yes\n")
    assert app.run(["runs", "clean", str(folder), "--json", "--only", "damaged"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["removed"]) for one in told] == [("damaged", False)]
    assert sorted(folder.rglob("*")) == before
