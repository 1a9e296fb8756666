"""How large everything is: as it is measured on a GPU, and tiny for a rehearsal on a CPU."""

from dataclasses import dataclass

EPOCHS = 200  # of the published row
CIFAR_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of all parts.

    Attributes:
        rehearsal: whether the figures mean nothing, because all that is tried is whether everything runs.
        device: where it runs.
        width: of all networks, beside that of the published ones.
        images: in the made-up training set.
        compared: number of images on which losses and gradients are compared with float64.
        followed: batch size, and number of images an epoch, of the steps that are compared one by one.
        steps: how many steps a captured training is compared with an eager one.
        layouts: precision and whether channels-last, the most important first.
        batches: batch sizes of the timed steps.
        rounds: how often a step, or a decomposition, is timed.
        block: steps that are timed together.
        ranks: of the decomposition.
        tap_batch: images of which taps are decomposed; None = as `benchmarks.taps` has it.
        slow: seconds; a solver that takes longer for one call is not called again on taps as large.
        epochs: of each run of the published row.
        timed_epochs: of the runs that are only timed.
        row_batch: batch size of the row.
        seeds: at most so many of each method.
    """

    rehearsal: bool = False
    device: str = "cuda"
    width: float = 1.0
    images: int = CIFAR_IMAGES
    compared: int = 64
    followed: tuple[int, int] = (128, 2_560)
    steps: int = 200
    layouts: tuple[tuple[str, bool], ...] = (("bf16-mixed", True), ("32-true", False))
    batches: tuple[int, ...] = (128, 1_024)
    rounds: int = 20
    block: int = 10
    ranks: tuple[int, ...] = (1, 2, 4)
    tap_batch: int | None = None
    slow: float = 1.0
    epochs: int = EPOCHS
    timed_epochs: int = 3
    row_batch: int = 128
    seeds: int = 10


MEASURED = Scale()
REHEARSED = Scale(
    rehearsal=True,
    device="cpu",
    width=0.0625,
    images=64,
    compared=4,
    followed=(8, 32),
    steps=8,
    batches=(8, 16),
    rounds=2,
    block=1,
    ranks=(1,),
    tap_batch=2,
    epochs=2,
    timed_epochs=2,
    row_batch=50,
    seeds=1,
)
