"""Tests of what trackers are told, by ones that write it down, fail or hang: no run depends on them."""

import sys
import threading

import pytest

from svdistill import recipes
from svdistill.errors import RecipeError, SvdistillWarning
from svdistill.trackers import behind, tracking
from svdistill.trackers.protocol import Known, Tracker
from tests.trackers.tiny import TINY, pull_the_plug, title, train


class Diary(Tracker):
    """Writes down what it is told; one for all runs, as a server is."""

    def __init__(self):
        self.told = []

    def open(self, about, known):
        """Note it."""
        self.about = about
        self.told.append(("open", known))
        return known or Known("the id", 0)

    def log(self, figures, epoch):
        """Note it."""
        self.told.append((epoch, figures))

    def hand_in(self, figures, files, epoch):
        """Note it."""
        assert all(file.is_file() for file in files)
        self.told.append(("end", figures, [file.name for file in files]))

    def close(self, *, failed):
        """Note it."""
        self.told.append(("close", failed))

    @property
    def epochs(self):
        """Those that were logged, in order."""
        return [entry[0] for entry in self.told if isinstance(entry[0], int)]


@pytest.fixture
def diary(monkeypatch):
    """Return what stands in for Trackio, which counts as installed."""
    found = Diary()
    monkeypatch.setitem(tracking._MAKES, "trackio", lambda: found)
    monkeypatch.setattr("svdistill.recipes.check._check_trackers", lambda recipe: None)
    return found


def test_a_run_is_told(diary, tmp_path):
    """Settings, each epoch as in the metrics, what it came to and its files; found again, nothing."""
    run = train(tmp_path, ["trackio"])
    assert (diary.about.name, diary.about.group, diary.about.method) == (title(run), "digits", "alone")
    assert diary.about.settings["train.epochs"] == 3
    assert diary.about.tags["torch"] == run.record.environment()["torch"]
    opened, *epochs, (end, figures, files), closed = diary.told
    assert (opened, end, closed) == (("open", None), "end", ("close", False))
    assert epochs == [(line["epoch"], behind.numbers(line)) for line in run.metrics]
    assert figures["summary/accuracy"] == run.summary["accuracy"]
    assert {"student.safetensors", "recipe.yaml", "summary.json"} <= set(files)
    assert ("report.html" in files) == bool(pytest.importorskip("matplotlib"))
    diary.told.clear()
    train(tmp_path, ["trackio"])
    assert diary.told == []


def test_a_run_resumes(diary, tmp_path):
    """In the same run of the tracker's, without an epoch twice, and with one that it lacks."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, ["trackio"], after=pull_the_plug)
    assert diary.epochs == [1]  # the plug came before it was told of the second
    assert diary.told[-1] == ("close", True)
    train(tmp_path, ["trackio"])
    assert ("open", Known("the id", 1)) in diary.told
    assert diary.epochs == [1, 2, 3]


def test_a_tracker_that_comes_later(diary, tmp_path):
    """It gets the epochs that are done, too."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [], after=pull_the_plug)
    train(tmp_path, ["trackio"])
    assert diary.epochs == [1, 2, 3]


@pytest.mark.parametrize("where", ["open", "log", "hand_in", "close"])
def test_a_tracker_that_fails(diary, tmp_path, monkeypatch, where):
    """One warning in one line, and the run is the same to the last bit."""

    def fail(*_, **__):
        raise OSError("no space\nleft on device")

    monkeypatch.setattr(diary, where, fail)
    message = r"^trackio: no space left on device; the run is no longer logged there, and otherwise the same$"
    with pytest.warns(SvdistillWarning, match=message) as caught:
        run = train(tmp_path / "a", ["trackio"])
    assert len([one for one in caught if issubclass(one.category, SvdistillWarning)]) == 1
    other = train(tmp_path / "b", [])
    assert run.path.name == other.path.name
    assert run.student_file.read_bytes() == other.student_file.read_bytes()


def test_a_tracker_that_hangs(diary, tmp_path, monkeypatch):
    """It is waited for at the end, but not for long."""
    answer = threading.Event()
    monkeypatch.setattr(diary, "log", lambda *_: answer.wait())
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.2)
    with pytest.warns(SvdistillWarning, match="^trackio: it does not answer; the run is no longer logged"):
        run = train(tmp_path, ["trackio"])
    answer.set()
    assert run.finished


def test_a_damaged_note(diary, tmp_path):
    """The warning names the file to remove."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, ["trackio"], after=pull_the_plug)
    (note,) = tmp_path.rglob("trackio.json")
    note.write_text("{")
    with pytest.warns(SvdistillWarning, match=r"trackio\.json is damaged; remove it"):
        assert train(tmp_path, ["trackio"]).finished


def test_one_that_is_not_installed(tmp_path, monkeypatch):
    """It is said before work starts; a mere folder of that name is not it."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RecipeError) as caught:
        train(tmp_path / "runs", ["mlflow"])
    message = "train.log: mlflow is not installed; install it with: pip install 'svdistill[mlflow]'"
    assert (str(caught.value), caught.value.exit_status) == (message, 2)
    assert not (tmp_path / "runs").exists()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RecipeError, match="wandb is not installed"):
        train(tmp_path / "runs", ["wandb"])


def test_names():
    """One name, several, or as earlier versions had it; a wrong one points to the nearest; none renames a run."""

    def load(*settings):
        return recipes.load("digits/student", [*TINY, *settings])

    assert load("train.log=mlflow").train.log == ("mlflow",)
    assert load("train.tensorboard=true", "train.log=[wandb,wandb]").train.log == ("wandb", "tensorboard")
    assert load("train.tensorboard=false").train.log == load("train.log=null").train.log == ()
    assert recipes.identity(load("train.log=[mlflow]")) == recipes.identity(load())
    with pytest.raises(RecipeError, match=r"^train\.log: no tracker 'mflow'; did you mean 'mlflow'\?$"):
        load("train.log=[mflow]")
    with pytest.raises(RecipeError, match=r"^train\.log: no tracker 3; known: tensorboard, mlflow"):
        load("train.log=3")
    with pytest.raises(RecipeError, match=r"^train\.tensorboard: expected true or false, got 'yes'"):
        load("train.tensorboard='yes'")


def test_a_teacher_is_logged_too():
    """It takes the trackers over, unless its own settings say otherwise."""
    helped = recipes.load("digits/svd", ["train.log=[mlflow]"])
    assert recipes.teacher_of(helped).train.log == ("mlflow",)
