"""What several tests of whole runs share: who listens to one, who stops it, and how two are compared."""

import torch

from svdistill import training


class Listener(training.Progress):
    """A progress that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def start(self, epochs, steps, done_epochs):
        """Keep it."""
        self.calls.append(("start", epochs, steps, done_epochs))

    def step(self, *, loss, images):
        """Keep it."""
        self.calls.append(("step", loss, images))

    def epoch(self, metrics):
        """Keep it."""
        self.calls.append(("epoch", metrics))

    def finish(self):
        """Keep it."""
        self.calls.append(("finish",))

    def named(self, name):
        """Return the calls of one name."""
        return [call[1:] for call in self.calls if call[0] == name]


def weights(run):
    """Return a copy of the whole state."""
    return {name: value.clone() for name, value in run.distiller.state_dict().items()}


def same(first, second):
    """Whether two states agree bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def without_time(metrics):
    """Return the lines without what a clock says."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in metrics]


class StopError(Exception):
    """Ends a run from outside."""


class Stopper(Listener):
    """Ends a run in the middle of a step's report."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def step(self, *, loss, images):
        """Stop at the step that was named."""
        super().step(loss=loss, images=images)
        if len(self.named("step")) == self.steps:
            raise StopError
