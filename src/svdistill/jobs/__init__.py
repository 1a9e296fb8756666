"""What the commands do, callable from Python."""

from svdistill.jobs.compare import METHODS, Comparison, Member, carry_out, compare, plan
from svdistill.jobs.demo import Demo, demo
from svdistill.jobs.evaluate import evaluate
from svdistill.jobs.pool import Observer, Outcome, Task, Unobserved
from svdistill.jobs.run import Run
from svdistill.jobs.train import train
from svdistill.jobs.watch import Nobody, Watcher

__all__ = [
    "METHODS",
    "Comparison",
    "Demo",
    "Member",
    "Nobody",
    "Observer",
    "Outcome",
    "Run",
    "Task",
    "Unobserved",
    "Watcher",
    "carry_out",
    "compare",
    "demo",
    "evaluate",
    "plan",
    "train",
]
