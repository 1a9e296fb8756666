"""Soft targets: the student learns the teacher's softened class probabilities."""

from torch import Tensor, nn

from svdistill.errors import ShapeError
from svdistill.losses.logits import divergence, logits_of, standardized
from svdistill.losses.options import check_switches, check_temperature
from svdistill.losses.protocol import LogitLoss


def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, standardize: bool = False
) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the student's softened probabilities.

    T² · mean_b Σ_c p_T (log p_T − log p_S), p = softmax(logits / T). T² keeps the size of the gradient when T changes.

    With ``standardize`` the logits of each image, of both networks, are first replaced by their z-scores
    (z − mean) / σ, so that the student need not match the teacher's range. σ has classes − 1 in its denominator, as in
    the authors' code (the paper prints classes; the code also adds 1e−7). Logits that are constant become 0 and carry
    no gradient. Published: T = 2, 9 times this loss and 0.1 of the main loss.

    Args:
        student_logits: (B, classes), floating.
        teacher_logits: (B, classes), floating; taken as constant; −inf excludes a class. A class that the student
            excludes is excluded of the teacher too.
        temperature: T > 0.
        standardize: compare z-scores in place of logits.

    Returns:
        Scalar in nats times T², at least float32; 0 for an empty batch.

    Raises:
        ShapeError: the shapes differ, or z-scores are asked for of fewer than three classes.
        OptionError: the temperature is not positive, or standardize is neither True nor False.

    Source: Hinton, Vinyals, Dean, 2015, section 2; z-scores: Sun, Ren, Li, Wang, Cao, *Logit Standardization in
    Knowledge Distillation*, CVPR 2024, algorithm 1.
    """
    student, teacher = logits_of(student_logits, teacher_logits)
    _check_options(temperature, standardize)
    if standardize:
        _check_classes(student.shape[1])
        student, teacher = standardized(student), standardized(teacher)
    apart = divergence(student / temperature, teacher / temperature)
    return apart.sum() * (temperature**2 / max(1, len(apart)))


class SoftTargetLoss(nn.Module, LogitLoss):
    """`soft_target_loss` with its settings stored; see there. Its goal is the teacher's logits."""

    def __init__(self, temperature: float = 4.0, standardize: bool = False) -> None:
        super().__init__()
        _check_options(temperature, standardize)
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss, see `soft_target_loss`."""
        return soft_target_loss(
            student_logits, teacher_logits, temperature=self.temperature, standardize=self.standardize
        )

    def compare(self, student: Tensor, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: logits are always comparable.

        Args:
            student: logits, as in `soft_target_loss`.
            goal: what `extract` returned for the same images.

        Raises:
            ShapeError: the classes or the images are not the same; see `soft_target_loss`.
        """
        return self(student, goal), {}

    def extra_repr(self) -> str:
        """Show the settings in the module's representation."""
        return f"temperature={self.temperature}" + (", standardize=True" if self.standardize else "")


def _check_classes(classes: int) -> None:
    if classes < 3:
        raise ShapeError(
            f"logits can be standardized for at least 3 classes, got {classes}: z-scores of fewer do not tell how sure "
            "a network is, so that nothing could be learned; leave standardize out"
        )


def _check_options(temperature: float, standardize: bool) -> None:
    check_temperature(temperature)
    check_switches(standardize=standardize)
