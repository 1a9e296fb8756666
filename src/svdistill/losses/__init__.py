"""Transfer losses, one method a file: the pure function and a thin module that stores its settings."""

from svdistill.losses.soft_target import SoftTargetLoss, soft_target_loss
from svdistill.losses.svd import SVDLoss, svd_loss

__all__ = ["SVDLoss", "SoftTargetLoss", "soft_target_loss", "svd_loss"]
