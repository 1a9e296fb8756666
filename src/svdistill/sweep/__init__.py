"""Many runs: methods × seeds × settings, trained side by side by processes of this machine or of a Ray cluster."""

from svdistill.sweep.comparison import Comparison, Member
from svdistill.sweep.demo import demo, plan_demo
from svdistill.sweep.plan import plan
from svdistill.sweep.run import carry_out, check_backend, compare, open_pool
from svdistill.sweep.scheduler import Observer, Outcome, Task

__all__ = [
    "Comparison",
    "Member",
    "Observer",
    "Outcome",
    "Task",
    "carry_out",
    "check_backend",
    "compare",
    "demo",
    "open_pool",
    "plan",
    "plan_demo",
]
