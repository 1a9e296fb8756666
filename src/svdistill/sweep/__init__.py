"""Many runs: methods × seeds × settings, trained side by side by processes of this machine or of a Ray cluster."""

from svdistill.sweep.run import METHODS, PLACES, Comparison, Member, carry_out, check_place, compare, plan, worker_pool
from svdistill.sweep.scheduler import Observer, Outcome, Task, Unobserved, WorkerPool

__all__ = [
    "METHODS",
    "PLACES",
    "Comparison",
    "Member",
    "Observer",
    "Outcome",
    "Task",
    "Unobserved",
    "WorkerPool",
    "carry_out",
    "check_place",
    "compare",
    "plan",
    "worker_pool",
]
