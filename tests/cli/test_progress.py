"""The progress of a run."""

import io
import re

import pytest
from rich.console import Console

from svdistill import recipes
from svdistill.cli.progress import Bar, Lines, Rate, Reporter


def play(progress: Bar | Lines, *, epochs: int = 30, steps: int = 4, done: int = 0) -> None:
    """Tell a progress of a whole run."""
    progress.start(epochs, steps, done)
    for epoch in range(done, epochs):
        for _ in range(steps):
            progress.step(loss=0.5, images=25)
        progress.epoch({"epoch": epoch + 1, "loss": 0.5, "accuracy": 0.9})
    progress.finish()


def test_lines_do_not_spam() -> None:
    """A pipe gets a line at the start, one for every tenth of a long run, and one at the end of any run."""
    out, short = io.StringIO(), io.StringIO()
    play(Lines("digits/svd seed 0", Console(file=out, width=80), pause=0))
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    play(Lines("digits/svd seed 0", Console(file=short, width=80), pause=1000))
    assert len(short.getvalue().splitlines()) == 2
    assert lines[0] == "digits/svd seed 0: 30 epochs of 4 steps"
    assert lines[-1].startswith("digits/svd seed 0: epoch 30/30  loss 0.500  accuracy 90.00 %")


def test_taps_that_are_left_out_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Which loss leaves out which, and why; of a run, before it begins."""
    left_out = {"fsp": ("block4", "classifier.relu1"), "attention": ("classifier.relu1",)}
    Reporter().left_out(recipes.load("digits/svd"), left_out)
    assert capsys.readouterr().err.splitlines() == [
        "digits/svd seed 0: fsp leaves out block4, classifier.relu1; attention leaves out classifier.relu1, a single "
        "position with nothing to compare"
    ]


def test_lines_of_a_resumed_run() -> None:
    """A run that resumes says after which epoch."""
    out = io.StringIO()
    play(Lines("x", Console(file=out, width=80)), done=27)
    assert out.getvalue().splitlines()[0] == "x: 30 epochs of 4 steps, resumes after epoch 27"


def test_bar_stays_with_the_result() -> None:
    """While a run is training its figures are below the bar; at the end one line of 80 columns has its accuracy."""
    out = io.StringIO()
    play(Bar("fashion-mnist/soft-target seed 0", Console(file=out, width=80, force_terminal=True, color_system=None)))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert lines[-1].startswith("fashion-mnist/soft-target seed 0 ━")
    assert "90.00 %" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_bar_on_a_narrow_terminal() -> None:
    """At 40 columns the epoch and the time that is left are whole, and so is the seed at the end of a long title."""
    out = io.StringIO()
    bar = Bar(
        "fashion-mnist/svd-recommended seed 12", Console(file=out, width=40, force_terminal=True, color_system=None)
    )
    play(bar, epochs=300)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert max(map(len, lines)) <= 40
    assert re.fullmatch(r"….*recommended seed 12 +90\.00 %  [\d.]+ s", lines[-1])
    wide = {"loss": "loss 0.500", "accuracy": "accuracy 90.0 %", "rate": "1,000 images/s", "left": "12.7 s left"}
    assert bar._fitting(wide) == "accuracy 90.0 %, 12.7 s left"
    assert bar._fitting(wide | {"left": "2 h 10 min left"}) == "accuracy 90.0 %, 2 h 10 min left"


def test_bar_of_a_stopped_run() -> None:
    """A run that stops early is not shown as done, and finishing before the start is no error."""
    out = io.StringIO()
    bar = Bar("x", Console(file=out, width=80, force_terminal=True, color_system=None))
    bar.finish()
    bar.start(3, 2, 0)
    bar.step(loss=float("nan"), images=25)
    bar.finish()
    assert "stopped" in out.getvalue()


def test_rate_leaves_out_what_was_done_before() -> None:
    """Steps that were done before an interruption say nothing about speed."""
    rate = Rate()
    rate.start()
    rate.add(0)
    assert (rate.images, rate.steps, rate.images_per_second, rate.left(10)) == (0, 0, 0.0, None)
    rate.add(25)
    rate.add(25)
    assert rate.left(0) == 0
    assert rate.images_per_second > 0
