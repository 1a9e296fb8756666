"""What the doctor finds: figures, one class for each part of a recipe, and remarks on them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Gravity = Literal["wrong", "look", "note"]


class Remark(NamedTuple):
    """Something that stands out.

    Attributes:
        gravity: ``wrong`` = the result would be; ``look`` = it may cost accuracy or time; ``note`` = good to know.
        part: where: ``images``, ``teacher``, ``taps``, ``steps`` or ``cost``.
        found: what was found.
        advice: what to change, and why.
    """

    gravity: Gravity
    part: str
    found: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class ImageFindings:
    """The images of a recipe.

    Attributes:
        name: of the data set.
        shape: (C, H, W).
        train: how many labelled training images there are.
        test: how many to measure with.
        unlabelled: how many for the transfer task alone.
        classes: how many there are.
        fewest: name and number of training images of the smallest class.
        most: the same of the largest.
        untrained: classes without a training image.
        untested: classes without a test image.
        looked_at: how many images of all sets were compared with each other by content.
        in_both: test images that are among the training images too, or among the unlabelled ones.
        twice: training images that are there more than once.
        contradicting: of those, how many have another label elsewhere.
        blank: images of one single value.
        bytes: of the pixels that lie in memory.
    """

    name: str
    shape: tuple[int, int, int]
    train: int
    test: int
    unlabelled: int
    classes: int
    fewest: tuple[str, int]
    most: tuple[str, int]
    untrained: tuple[str, ...]
    untested: tuple[str, ...]
    looked_at: int
    in_both: int
    twice: int
    contradicting: int
    blank: int
    bytes: int

    @property
    def images(self) -> int:
        """How many images there are in all sets."""
        return self.train + self.test + self.unlabelled


@dataclass(frozen=True, kw_only=True)
class TeacherFindings:
    """The teacher of a recipe.

    Attributes:
        name: of its recipe, or the path of its file.
        file: its weights; None where it is yet to be trained.
        accuracy: on test images of its own classes, 0 to 1; None where it could not be measured.
        measured: how many images that was measured on.
        classes: how many it tells apart; None where its file does not say.
        same_classes: whether they are the student's; None where its file does not say.
        same_scale: whether it was trained with the same mean and deviation; None where its file does not say.
    """

    name: str
    file: str | None
    accuracy: float | None = None
    measured: int = 0
    classes: int | None = None
    same_classes: bool | None = None
    same_scale: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TapFindings:
    """A pair of taps, looked at on test images in eval mode.

    Attributes:
        student: dotted name of the student's submodule.
        student_shape: of its map for one image.
        teacher: the same of the teacher.
        teacher_shape: of its map for one image.
        adapted: whether an adapter widens the student's map.
        left_out: the losses that leave this pair out.
        dead: fraction of the teacher's channels that are zero everywhere.
        energy: fraction of the energy of the teacher's map in the vectors that the loss keeps; None for an untrained
            teacher, or a loss that keeps none.
    """

    student: str
    student_shape: tuple[int, ...]
    teacher: str
    teacher_shape: tuple[int, ...]
    adapted: bool
    left_out: tuple[str, ...]
    dead: float
    energy: float | None


@dataclass(frozen=True, kw_only=True)
class StageFindings:
    """A few real steps of a stage of training, whose weights are thrown away.

    Attributes:
        epochs: of the stage.
        steps: of an epoch.
        main: whether the main task takes part.
        tried: how many steps were taken.
        first_loss: main loss, mean over the first steps.
        loss: main loss, mean over the others.
        transfer: transfer loss with its weights; None where none takes part.
        ratio: ‖g_t‖ / ‖g_m‖, median; None without one of the two tasks.
        clipped: fraction of the variables whose transfer gradient was scaled down.
        passed: how much of the transfer gradient the bound let through, median.
        set_aside: fraction of the images that the transfer loss set aside.
        step_seconds: of a step.
        epoch_seconds: of an epoch, with its evaluation and its checkpoint.
    """

    epochs: int
    steps: int
    main: bool
    tried: int
    first_loss: float
    loss: float
    transfer: float | None
    ratio: float | None
    clipped: float | None
    passed: float | None
    set_aside: float | None
    step_seconds: float
    epoch_seconds: float


@dataclass(frozen=True, kw_only=True)
class CostFindings:
    """What a run takes.

    Attributes:
        device: where it computes.
        precision: of the arithmetic.
        seconds: to the end of the run, its teachers' that are yet to be trained not included.
        teacher_seconds: of those; 0 where all are there.
        memory: in bytes at most: of the GPU, or of this whole process; None where the system does not tell.
        memory_there: in bytes.
        disk: in bytes, of checkpoints and networks.
        disk_free: in bytes, where the runs go.
    """

    device: str
    precision: str
    seconds: float
    teacher_seconds: float
    memory: int | None
    memory_there: int | None
    disk: int
    disk_free: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that was found.

    Attributes:
        recipe: its name.
        method: of the student.
        seed: of the run.
        images: of the student.
        teacher: None for a student alone.
        taps: of the losses that compare maps.
        stages: of the training.
        cost: of the run.
        remarks: the gravest first.
        seconds: that the examination took.
    """

    recipe: str
    method: str
    seed: int
    images: ImageFindings
    teacher: TeacherFindings | None
    taps: Sequence[TapFindings]
    stages: Sequence[StageFindings]
    cost: CostFindings
    remarks: Sequence[Remark]
    seconds: float

    def to_dict(self) -> Mapping[str, Any]:
        """Return everything as plain mappings, lists, texts and numbers."""
        return asdict(self) | {"remarks": [remark._asdict() for remark in self.remarks]}
