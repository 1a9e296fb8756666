"""What the learning rate is multiplied by in each epoch of a stage: a warm-up, then a decay in steps or by a cosine."""

import math
from collections.abc import Sequence

# What a warm-up begins with, as in torchvision's reference training.
WARM_UP_START = 0.01


def step_decay(epoch: int, *, milestones: Sequence[int], gamma: float) -> float:
    """Return gamma to the number of milestones reached.

    Args:
        epoch: from 0.
        milestones: the epochs from which on the rate is lower.
        gamma: the factor at each.
    """
    return gamma ** sum(epoch >= milestone for milestone in milestones)


def cosine_decay(epoch: int, *, epochs: int) -> float:
    """Return ½ (1 + cos(π epoch / epochs)): 1 in the first epoch, and 0 only after the last.

    Args:
        epoch: from 0.
        epochs: how many there are, ≥ 1.

    Source: Loshchilov & Hutter, SGDR, 2017, equation 5, without restarts.
    """
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear_warm_up(epoch: int, *, epochs: int) -> float:
    """Return a factor that rises by equal steps from 0.01 in the first epoch to 1 after so many, and stays there.

    Args:
        epoch: from 0.
        epochs: how many have a lower rate; 0 = none.
    """
    return 1.0 if epoch >= epochs else WARM_UP_START + (1 - WARM_UP_START) * epoch / epochs
