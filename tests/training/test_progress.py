"""Tests of progress: nobody has to be told."""

import math

from svdistill.training import Progress, Silent


def test_silent_is_a_progress_that_shows_nothing(capsys):
    """It can be called like any other."""
    progress: Progress = Silent()
    progress.start(3, 10, 0)
    progress.step(loss=math.nan, images=8)
    progress.epoch({"epoch": 1})
    progress.finish()
    assert capsys.readouterr() == ("", "")
