"""The program as a whole: statuses, one-line errors, a quick start."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from svdistill import __version__, recipes
from svdistill.cli import app

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=2"]
CPU = "train.device=cpu"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own; tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the program in this process; return its status and both outputs."""
    status = app.run(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_starts_without_torch() -> None:
    """Neither the import nor --help loads torch or another slow library."""
    code = (
        "import sys; from svdistill.cli import app; app.run(['--help']); app.run(['train', '--help']);"
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_listing_recipes_needs_no_torch() -> None:
    """A list of recipes is there at once."""
    code = "import sys; from svdistill.cli import app; app.run(['recipes']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names every command and shows examples that are no wider than a terminal."""
    status, out, _ = call(capsys, "--help")
    assert status == 0
    commands = ("demo", "train", "cache", "compare", "report", "evaluate", "networks", "recipes", "data")
    for word in (*commands, "svdistill train digits/svd seed=1"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80


def test_module_is_the_program() -> None:
    """``python -m svdistill`` works."""
    done = subprocess.run([sys.executable, "-m", "svdistill", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"svdistill {__version__}"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["train"], "error: Missing argument 'RECIPE'; see 'svdistill train --help'"),
        (["train", "digits/svd", "--frsh"], "error: No such option: --frsh"),
        (["trian"], "error: No such command 'trian'"),
        (["train", "digits/sdv"], "error: no recipe 'digits/sdv'; did you mean 'digits/svd'"),
        (["train", "digits/svd", "loss.rnk=2"], "error: loss.rnk: unknown key for loss 'svd'; did you mean 'rank'?"),
        (["train", "digits/svd", "optimizer.lr=fast"], "error: optimizer.lr: expected a number, got 'fast'"),
        (
            ["recipes", "show", "digits/svd", "model.name=vgg"],
            "error: model.name: no network is called 'vgg'; did you mean 'vgg8'",
        ),
        (["evaluate", "nowhere"], "error: there is no run and no file nowhere"),
        (["demo", "--seeds", "0"], "error: Invalid value for '--seeds'"),
        (["demo", "--output", "no/where.png"], "error: cannot write the figure no/where.png"),
    ],
)
def test_wrong_input(capsys: pytest.CaptureFixture[str], arguments: list[str], match: str) -> None:
    """What is wrong is one line on standard error and status 2, and no file is written."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(match)
    assert err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


def test_error_while_running(capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that blows up is one line and status 1."""
    status, out, err = call(capsys, "train", "digits/student", *TINY, CPU, "optimizer.lr=1e9", "--quiet")
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "not finite" in err
    assert err.count("\n") == 1


def test_too_little_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says when memory runs out becomes one line that says what to lower."""
    from svdistill import jobs

    def greedy(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(jobs, "train", greedy)
    status, _, err = call(capsys, "train", "digits/student")
    assert status == 1
    assert "lower train.batch_size" in err
    assert err.count("\n") == 1


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C says that the run resumes when called again, status 130."""
    from svdistill import jobs

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "train", interrupted)
    status, _, err = call(capsys, "train", "digits/student")
    assert status == 130
    assert "call the same command again" in err
    assert err.count("\n") == 1


def test_show_is_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``recipes show`` prints is the full recipe, and trains as one."""
    status, out, _ = call(capsys, "recipes", "show", "digits/svd", "loss.rank=2")
    assert status == 0
    assert yaml.safe_load(out)["loss"]["rank"] == 2
    Path("mine.yaml").write_text(out)
    assert recipes.load("mine.yaml") == recipes.load("digits/svd", ["loss.rank=2"])


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """``recipes`` and ``recipes list`` name the groups, with ``--all`` every recipe within 80 columns."""
    assert call(capsys, "recipes") == call(capsys, "recipes", "list")
    bare = call(capsys, "recipes", "list", "--all")
    assert all(name in bare[1] for name in recipes.names())
    assert max(map(len, bare[1].splitlines())) <= 80


def test_train_then_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    """A run ends with a table, the file and the command that measures it; that command works."""
    status, out, err = call(capsys, "train", "digits/student", *TINY, CPU)
    assert status == 0
    assert "test accuracy, last epoch" in out
    command = out.rstrip().splitlines()[-1].split("svdistill ")[1]
    assert err.count("\n") <= 5
    status, out, err = call(capsys, *command.split(), "--device", "cpu")
    assert (status, err) == (0, "")
    assert "all" in out
    assert "797" in out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor prints tables or JSON; a training that ends in trouble names it."""
    status, out, _ = call(capsys, "doctor", "digits/student", *TINY, CPU)
    assert status == 0
    assert "what stands out" in out
    status, out, _ = call(capsys, "doctor", "digits/student", *TINY, CPU, "--json")
    assert json.loads(out)["images"]["train"] == 20
    status, _, err = call(capsys, "train", "digits/student", *TINY, CPU, "optimizer.lr=1e9")
    assert status == 1
    assert "svdistill doctor digits/student" in err


def test_quiet_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet the only output is the path of the trained network."""
    status, out, err = call(capsys, "train", "digits/student", *TINY, CPU, "--quiet", "--runs", "elsewhere")
    assert (status, err) == (0, "")
    assert Path(out.strip()).is_file()


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo shows its progress, and ends with a table, a sentence and a figure; again, it trains nothing."""
    arguments = ("demo", "--seeds", "1", "--epochs", "1", "--output", "figure.png", "--runs", "here")
    status, out, err = call(capsys, *arguments)
    assert status == 0
    for word in (
        "student alone",
        "student with KD-SVD",
        "student with soft targets",
        "Of 100 test scans",
        "figure.png",
    ):
        assert word in out
    assert "7/7" in err
    assert Path("figure.png").stat().st_size > 0
    status, again, err = call(capsys, *arguments)
    assert (status, again) == (0, out)
    assert "7 of them found finished" in err


def test_demo_without_a_folder_for_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so before any work."""
    Path("here").touch()
    status, out, err = call(capsys, "demo", "--seeds", "1", "--epochs", "1", "--runs", "here")
    assert (status, out) == (2, "")
    assert "choose another" in err
    assert "--runs" in err
    assert err.count("\n") == 1


def test_live_bar_in_a_terminal(tmp_path: Path) -> None:
    """In a terminal a run shows a live bar with loss, accuracy and images per second."""
    main, worker = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    arguments = [sys.executable, "-m", "svdistill", "train", "digits/student", *TINY, CPU]
    process = subprocess.Popen(arguments, stdout=worker, stderr=worker, env=environment, cwd=tmp_path)
    os.close(worker)
    shown = b""
    try:
        while chunk := os.read(main, 65536):
            shown += chunk
    except OSError:  # the terminal closes when the program ends
        pass
    finally:
        os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert "digits/student seed 0" in text
    assert "accuracy" in text
    assert "━" in text


def test_broken_pipe() -> None:
    """A reader that has seen enough is no error."""
    done = subprocess.run(
        f"{sys.executable} -m svdistill recipes | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["compare", "demo", "evaluate"])
def test_only_training_is_for_several_processes(monkeypatch, capsys, command):
    """Each of them would do the whole work again."""
    here = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    assert app.run([command, "digits/svd"] if command != "demo" else [command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: 'svdistill {command}' runs in one process, and 2 were started")
