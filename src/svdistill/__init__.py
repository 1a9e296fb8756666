"""svdistill trains a small image model with the help of a large one, by KD-SVD."""

from svdistill.version import __version__

TYPE_CHECKING = False  # as typing has it, whose import takes longer than all else here
if TYPE_CHECKING:
    from svdistill import data, gradients, jobs, linalg, losses, nets, recipes, report, sweep, teacher_cache, training
    from svdistill.distiller import Distiller, DistillOutput
    from svdistill.gradients import combine
    from svdistill.jobs.deployment.export import export
    from svdistill.jobs.evaluate import evaluate
    from svdistill.jobs.hub import pull, push
    from svdistill.jobs.predict import predict
    from svdistill.jobs.run import Run
    from svdistill.jobs.student import Student
    from svdistill.jobs.train import train
    from svdistill.losses import SVDLoss, svd_loss
    from svdistill.nets import load
    from svdistill.sweep import compare
    from svdistill.teacher_cache import TeacherCache
    from svdistill.training.backward import backward, joint_loss

__all__ = [
    "DistillOutput",
    "Distiller",
    "Run",
    "SVDLoss",
    "Student",
    "TeacherCache",
    "__version__",
    "backward",
    "combine",
    "compare",
    "data",
    "evaluate",
    "export",
    "gradients",
    "jobs",
    "joint_loss",
    "linalg",
    "load",
    "losses",
    "nets",
    "predict",
    "pull",
    "push",
    "recipes",
    "report",
    "svd_loss",
    "sweep",
    "teacher_cache",
    "train",
    "training",
]

# Where each name comes from; a name that is not here is a subpackage or module of that name.
_HOMES = {
    "DistillOutput": "svdistill.distiller",
    "Distiller": "svdistill.distiller",
    "Run": "svdistill.jobs",
    "SVDLoss": "svdistill.losses",
    "Student": "svdistill.jobs",
    "TeacherCache": "svdistill.teacher_cache",
    "backward": "svdistill.training",
    "combine": "svdistill.gradients",
    "compare": "svdistill.sweep",
    "evaluate": "svdistill.jobs",
    "export": "svdistill.jobs",
    "joint_loss": "svdistill.training",
    "load": "svdistill.nets",
    "predict": "svdistill.jobs",
    "pull": "svdistill.jobs",
    "push": "svdistill.jobs",
    "svd_loss": "svdistill.losses",
    "train": "svdistill.jobs",
}


if not TYPE_CHECKING:  # which sees the imports above, and so notices a misspelt name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used, so that the command line starts without torch."""
        if name not in __all__:
            raise AttributeError(f"module 'svdistill' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"svdistill.{name}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Name what there is, imported or not."""
    return sorted({*globals(), *__all__})
