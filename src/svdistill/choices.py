"""What options may be, by name, where a recipe's settings and the functions themselves both have to know. No torch."""

import math
from typing import Any, Literal, SupportsFloat, get_args

# How a transfer gradient may be bounded; see `svdistill.gradients.combine`.
Clip = Literal["per_variable", "global", "poster", "own_norm", "none"]
CLIPS: tuple[Clip, ...] = get_args(Clip)

# Of KD-SVD; see `svdistill.losses.svd_loss`.
Assignment = Literal["argmax", "one_to_one"]
ASSIGNMENTS: tuple[Assignment, ...] = get_args(Assignment)
Gradient = Literal["exact", "paper"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
Basis = Literal["own", "teacher"]
BASES: tuple[Basis, ...] = get_args(Basis)
Reduction = Literal["sum", "mean"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

# Whether a step is captured as a CUDA graph; see `svdistill.training.TrainingPlan`.
Capture = Literal["auto", "on", "off"]
CAPTURES: tuple[Capture, ...] = get_args(Capture)

# How the learning rate falls over the epochs; see `svdistill.training.Stage`.
Schedule = Literal["steps", "cosine"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

# Where the figures of a run go besides its own files; each is the name of a package, and of the extra that brings it.
Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)

# The data set of one's own images: its root says which images they are, not only where they lie.
IMAGE_FOLDER = "image-folder"

# Where the channels of a feature map stand: (B, C, H, W) and (B, C, T), or (B, H, W, C) and (B, N, D).
Layout = Literal["channels_first", "channels_last"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

BETA = 8.0  # the published width of the radial basis function
BOUND = 1.0  # what ``own_norm`` holds the norm of the transfer gradient at or below

# KD-SVD as each of its sources has it; they disagree (docs/method.md). What a recipe says itself goes first.
# All of them sum over the batch.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper and the code published with it.
    "eccv2018": {
        "rank": 1,
        "extra": 1,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "per_variable",
    },
    # The poster, whose sweep over the rank peaks at 2; its alignment is the paper's.
    "poster": {
        "rank": 2,
        "extra": 1,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "poster",
    },
    # The author's later collection of methods: more candidates, no factor.
    "kd-methods": {
        "rank": 1,
        "extra": 3,
        "scaled": False,
        "assignment": "argmax",
        "gradient": "paper",
        "reduction": "sum",
        "clip": "per_variable",
    },
    # Without a decomposition of the student.
    "teacher-basis": {"rank": 1, "basis": "teacher", "reduction": "sum", "clip": "per_variable"},
}
# Above each of these there is no use, and at some point beyond no number format or memory that holds it.
MAX_RANK = 65_536  # singular vectors of a map, tokens or taps: wider than any layer
MAX_COUNT = 1_000_000_000  # images of a set
MAX_EPOCHS = 1_000_000
MAX_BATCH = 1_000_000
MAX_FACTOR = 1e9  # weights of losses, learning rates and the like, in float32


def is_number(value: object) -> bool:
    """Tell whether an option is a number, of Python, NumPy or a tensor; a text is not one, whatever it says."""
    # The first two are told in no time; the last, any other, takes a few microseconds.
    return isinstance(value, float | int | SupportsFloat) and not isinstance(value, str)


def whole_epochs(length: float, *, of: int) -> int:
    """Return a length of a training in epochs: a number of epochs, or a fraction of so many, which is rounded up."""
    return length if isinstance(length, int) else math.ceil(length * of - 1e-9)


def stage_lengths(epochs: int, first_stage: float, *, counts: bool) -> tuple[int, int]:
    """Return in epochs how long the first of two stages is, and how long that of the main task.

    Args:
        epochs: of the main task; where the first stage ``counts``, of both together.
        first_stage: a number of epochs, or a fraction of those of the main task; 0 = one stage.
        counts: whether the first stage's epochs are among the ``epochs``, or come in addition.
    """
    if not counts or first_stage == 0:
        return whole_epochs(first_stage, of=epochs), epochs
    main = epochs - first_stage if isinstance(first_stage, int) else math.floor(epochs / (1 + first_stage) + 1e-9)
    return epochs - main, main
