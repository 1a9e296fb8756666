"""Transfer losses, one method a file: the pure function and a thin module that stores its settings."""

from svdistill.losses.adapters import Adapters
from svdistill.losses.attention import AttentionLoss, attention_loss
from svdistill.losses.dist import DISTLoss, dist_loss
from svdistill.losses.dkd import DKDLoss, dkd_loss
from svdistill.losses.fitnet import FitNetLoss, fitnet_loss
from svdistill.losses.fsp import FSPLoss, fsp_loss
from svdistill.losses.pkt import PKTLoss, pkt_loss
from svdistill.losses.relational import RelationalLoss, relational_loss
from svdistill.losses.similarity import SimilarityLoss, similarity_loss
from svdistill.losses.soft_target import SoftTargetLoss, soft_target_loss
from svdistill.losses.svd import SVDLoss, svd_loss

__all__ = [
    "Adapters",
    "AttentionLoss",
    "DISTLoss",
    "DKDLoss",
    "FSPLoss",
    "FitNetLoss",
    "PKTLoss",
    "RelationalLoss",
    "SVDLoss",
    "SimilarityLoss",
    "SoftTargetLoss",
    "attention_loss",
    "dist_loss",
    "dkd_loss",
    "fitnet_loss",
    "fsp_loss",
    "pkt_loss",
    "relational_loss",
    "similarity_loss",
    "soft_target_loss",
    "svd_loss",
]
