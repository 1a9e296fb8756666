"""Tensors in, tensors out: truncated SVD, alignment of its vectors, and distances of their relations."""

from svdistill.linalg.align import ASSIGNMENTS, Assignment, assign, canonical_signs
from svdistill.linalg.options import check_beta, check_choice, check_rank
from svdistill.linalg.precision import full_float32
from svdistill.linalg.rbf import rbf_distance
from svdistill.linalg.solvers import SOLVERS, Solver
from svdistill.linalg.svd import GRADIENTS, Decomposition, Gradient, decompose, truncated_svd

__all__ = [
    "ASSIGNMENTS",
    "GRADIENTS",
    "SOLVERS",
    "Assignment",
    "Decomposition",
    "Gradient",
    "Solver",
    "assign",
    "canonical_signs",
    "check_beta",
    "check_choice",
    "check_rank",
    "decompose",
    "full_float32",
    "rbf_distance",
    "truncated_svd",
]
