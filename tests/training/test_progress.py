"""Tests of progress: who listens to some of it need not mention the rest, and changes nothing."""

import torch

from svdistill.training import NoProgress, Progress


class Epochs(Progress):
    """Wants to hear of epochs alone."""

    def __init__(self):
        self.heard = []

    def epoch(self, metrics):
        """Keep its number."""
        self.heard.append(metrics["epoch"])


def test_a_listener_implements_what_it_wants_and_changes_no_result(make_run):
    """The weights are bit for bit those of a run that nobody watches, and of one that is watched by the null object."""
    progress = Epochs()
    states = []
    for name, listener in (("watched", progress), ("null", NoProgress()), ("alone", None)):
        run = make_run(name=name)
        run.fit(epochs=2, progress=listener)
        states.append(run.distiller.state_dict())
    assert progress.heard == [1, 2]
    for other in states[1:]:
        assert all(torch.equal(value, other[key]) for key, value in states[0].items())
