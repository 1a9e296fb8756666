"""Tensors in, tensors out: truncated SVD, alignment of its vectors, and distances of their relations."""

from svdistill.linalg.align import assign
from svdistill.linalg.rbf import rbf_distance
from svdistill.linalg.svd import truncated_svd

__all__ = ["assign", "rbf_distance", "truncated_svd"]
