"""Whether a training gets anywhere: its main loss is judged after each epoch, and what stands out said once."""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

# Fewer steps and images than these say nothing; short epochs are judged together.
_LEAST_STEPS, _LEAST_IMAGES = 64, 1000
# Relative to the loss by chance: a loss above the first has learnt nothing, a fall below the second is none.
_AT_CHANCE = 0.985
_FALL = 0.003
# How many times the loss that a training began with, or that of chance, it must have at last, or in between.
_RISEN, _LEAPT = 2.0, 20.0


class Course:
    """The main loss of a stage, compared with what guessing by the classes' shares alone would give.

    Args:
        labels: (N,), int64, of images with the classes' shares.
        classes: how many classes there are.
        label_smoothing: of the main loss.
    """

    def __init__(self, labels: Tensor, classes: int, *, label_smoothing: float = 0.0) -> None:
        shares = torch.bincount(labels[labels >= 0].cpu(), minlength=classes).double()
        shares /= shares.sum().clamp(min=1)
        smoothed = (1 - label_smoothing) * shares + label_smoothing / classes
        self.chance = float(torch.special.entr(smoothed).sum())
        self._share = float(shares.max())
        self._losses: list[float] = []
        self._right = self._images = 0.0
        self._told = False

    def judge(self, losses: Sequence[float], *, accuracy: float, images: int) -> str | None:
        """Judge an epoch.

        Args:
            losses: the main loss of each step, in order.
            accuracy: on the training images, 0 to 1.
            images: how many that was counted on.

        Returns:
            What stands out, in words; None where nothing does, or it has been said before.
        """
        self._losses += losses
        self._right += accuracy * images
        self._images += images
        if self._told or len(self._losses) < _LEAST_STEPS or self._images < _LEAST_IMAGES or not self.chance:
            return None
        said = self._rising() or self._stuck()
        self._told = said is not None
        self._losses, self._right, self._images = [], 0.0, 0.0
        return said

    def _rising(self) -> str | None:
        losses = self._losses
        base = max(self.chance, statistics.median(losses[: max(3, len(losses) // 10)]))
        last, peak = statistics.fmean(losses[-(len(losses) // 4) :]), max(losses)
        if last > _RISEN * base or (peak > _LEAPT * base and last > _AT_CHANCE * self.chance):
            return f"the loss diverges: it began at {losses[0]:.3g}, reached {peak:.3g} and is now {last:.3g}"
        return None

    def _stuck(self) -> str | None:
        quarter = len(self._losses) // 4
        before, last = self._losses[quarter : 2 * quarter], self._losses[-quarter:]
        fall, loss = statistics.fmean(before) - statistics.fmean(last), statistics.fmean(last)
        noise = math.sqrt((statistics.variance(before) + statistics.variance(last)) / quarter)
        falls = fall > max(_FALL * self.chance, 2 * noise)
        accuracy = self._right / self._images
        error = math.sqrt(self._share * (1 - self._share) / self._images)
        guessing = accuracy <= self._share + max(self._share / 4, 3 * error)
        if loss > _AT_CHANCE * self.chance and guessing and not falls:
            return (
                f"the student is no better than chance, and its loss does not fall: {loss:.4f}, by chance "
                f"{self.chance:.4f}; training accuracy {100 * accuracy:.1f} %"
            )
        return None
