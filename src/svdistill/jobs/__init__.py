"""What the commands do, callable from Python."""

from svdistill.jobs.agenda import Observer, Outcome, Task, Unobserved
from svdistill.jobs.cache import Stored, cache
from svdistill.jobs.compare import METHODS, PLACES, Comparison, Member, carry_out, check_place, compare, crew, plan
from svdistill.jobs.demo import Demo, demo
from svdistill.jobs.evaluate import evaluate
from svdistill.jobs.run import Run
from svdistill.jobs.train import train
from svdistill.jobs.watch import Nobody, Watcher

__all__ = [
    "METHODS",
    "PLACES",
    "Comparison",
    "Demo",
    "Member",
    "Nobody",
    "Observer",
    "Outcome",
    "Run",
    "Stored",
    "Task",
    "Unobserved",
    "Watcher",
    "cache",
    "carry_out",
    "check_place",
    "compare",
    "crew",
    "demo",
    "evaluate",
    "plan",
    "train",
]
