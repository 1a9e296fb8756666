"""Similarity-preserving distillation: images that are alike to the teacher are to be alike to the student."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.errors import ShapeError
from svdistill.losses.maps import channels_first, match, pair_up, warn_of_layout, wide_dtype, without_features
from svdistill.losses.protocol import Maps, Reads, TransferLoss


def similarity_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Compare how similar the images of a batch are to each other in student and teacher, at the last tap.

    ‖G_S − G_T‖²_F / B², where G is A Aᵀ with each row divided by its norm, and A (B, C·H·W) the last map of each image
    as one vector. Widths and sizes need not agree. An image without features, or with next to none beside the others of
    its batch, has similarity 0 to all and no gradient. A batch of one has loss 0.

    The paper sums over pairs of layers; its experiments, and its authors' later ones, compare the last map before the
    global pooling alone. With a network's own taps the last is what the output layer reads; name other taps for a map.

    Args:
        student_maps: L ≥ 1 feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating; the last is used.
        teacher_maps: as many; taken as constant.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps or shapes do not fit.

    Source: Tung, Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019, section 3.
    """
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps))


class SimilarityLoss(nn.Module, TransferLoss[Maps, Tensor]):
    """`similarity_loss` as a module; see there. Its goal is the teacher's features of each image.

    The paper's weight is 3000.
    """

    reads: ClassVar[Reads] = "maps"
    least_images: ClassVar[int] = 2
    precise: ClassVar[frozenset[str]] = frozenset({"largest"})

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `similarity_loss`."""
        return similarity_loss(student_maps, teacher_maps)

    def extract(self, teacher: Maps, student: Maps) -> Tensor:
        """Return the teacher's features.

        Args:
            teacher: maps, as in `similarity_loss`.
            student: maps, as in `similarity_loss`; only their number and their batch matter.

        Returns:
            (B, C·H·W): the last map as it is, each image in one row.

        Raises:
            ShapeError: see `similarity_loss`.
        """
        return _extract(teacher, student)

    def compare(self, student: Maps, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: any features have similarities.

        Args:
            student: maps, as in `similarity_loss`.
            goal: what `extract` returned for the same images.

        Raises:
            ShapeError: it is not of these images.
        """
        return _compare(student, goal), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name each image's features, relative to their ``largest`` magnitude (B, 1), ``features``.

        So half precision holds features of any scale.
        """
        largest = goal.abs().amax(1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        return {"features": goal / largest, "largest": largest}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the features as they were; ShapeError where their ``largest`` is lacking."""
        if "largest" not in stored:
            raise ShapeError(f"what is stored of the teacher ({', '.join(stored)}) lacks largest; store it again")
        return stored["features"] * stored["largest"]


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps) -> Tensor:
    return _rows(pair_up(student_maps, teacher_maps, method="SP")[-1][1])


def _compare(student_maps: Maps, features: Tensor) -> Tensor:
    student = student_maps[-1]
    match([student], [features], method="SP")
    with torch.autocast(student.device.type, enabled=False):
        apart = _similarities(_rows(student)) - _similarities(features)
        loss = apart.square().sum() / max(1, len(student) ** 2)
    return loss.to(wide_dtype(student))


def _rows(feature: Tensor) -> Tensor:
    """View a map as one row for each image, (B, C·H·W)."""
    return channels_first(feature).flatten(1)


def _similarities(features: Tensor) -> Tensor:
    """Return the inner products of a batch's rows, each row of them divided by its norm, (B, B).

    In float64, which TF32 leaves alone.
    """
    wide = features.double()
    gram = wide @ wide.mT
    squares = gram.square().sum(1, keepdim=True)
    nothing = without_features(squares)
    return torch.where(nothing, 0.0, gram / torch.where(nothing, 1.0, squares).sqrt())
