"""Probabilistic knowledge transfer: which images are neighbours to the teacher are to be so to the student."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.losses.maps import averaged, match, pair_up, warn_of_layout, wide_dtype, without_features
from svdistill.losses.protocol import Maps, Reads, TransferLoss

# As published: keeps the logarithm of a similarity of 0 finite.
EPSILON = 1e-7


def pkt_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Compare the probabilities with which the images of a batch would pick each other, at the last tap.

    mean_{ij} p_ij log((p_ij + ε) / (q_ij + ε)), where p_ij = K_ij / Σ_k K_ik of the teacher, q of the student, K_ij =
    (1 + cos(e_i, e_j)) / 2 and ε = 1e−7. As in the authors' code the mean is over all B² pairs, those of an image with
    itself included; the paper sums over pairs of different images.

    The embedding e is the last map averaged over its positions, such as the last hidden features. Its width and scale
    need not agree. An image without features has cosine 0 with all, itself included, and no gradient. A batch of one
    has loss 0.

    Args:
        student_maps: L ≥ 1 feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating; the last is used.
        teacher_maps: as many; taken as constant.

    Returns:
        Scalar in nats, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps or shapes do not fit.

    Source: Passalis, Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer*, ECCV 2018, section
    3, with the cosine kernel.
    """
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps))


class PKTLoss(nn.Module, TransferLoss[Maps, Tensor]):
    """`pkt_loss` as a module; see there. Its goal is the teacher's embeddings.

    Later benchmarks use it with a weight of 30000 beside the main loss, which the mean over B² pairs needs; the paper
    trains on it alone.
    """

    reads: ClassVar[Reads] = "maps"
    least_images: ClassVar[int] = 2
    precise: ClassVar[frozenset[str]] = frozenset({"embedding"})  # the probabilities differ by little

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `pkt_loss`."""
        return pkt_loss(student_maps, teacher_maps)

    def extract(self, teacher: Maps, student: Maps) -> Tensor:
        """Return the teacher's embeddings.

        Args:
            teacher: maps, as in `pkt_loss`.
            student: maps, as in `pkt_loss`; only their number and their batch matter.

        Returns:
            (B, D), float64: the last map averaged over its positions.

        Raises:
            ShapeError: see `pkt_loss`.
        """
        return _extract(teacher, student)

    def compare(self, student: Maps, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: any embeddings have neighbours.

        Args:
            student: maps, as in `pkt_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these images.
        """
        return _compare(student, goal), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name the goal ``embedding``."""
        return {"embedding": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return ``embedding``."""
        return stored["embedding"]


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps) -> Tensor:
    return averaged(pair_up(student_maps, teacher_maps, method="PKT")[-1][1])


def _compare(student_maps: Maps, embedding: Tensor) -> Tensor:
    student = student_maps[-1]
    match([student], [embedding], method="PKT")
    with torch.autocast(student.device.type, enabled=False):
        q, p = _neighbours(averaged(student)), _neighbours(embedding.double())
        loss = (p * ((p + EPSILON) / (q + EPSILON)).log()).sum() / max(1, len(student) ** 2)
    return loss.to(wide_dtype(student))


def _neighbours(embedding: Tensor) -> Tensor:
    """Return the probability with which each image of a batch would pick each, (B, B); each row adds up to 1."""
    squares = embedding.square().sum(1, keepdim=True)
    nothing = without_features(squares)
    # The root of a zero has no derivative, so such embeddings take no part in it.
    direction = torch.where(nothing, 0.0, embedding / torch.where(nothing, 1.0, squares).sqrt())
    kernel = (1 + direction @ direction.mT) / 2
    return kernel / kernel.sum(1, keepdim=True)
