"""Relational knowledge distillation: the student learns distances and angles between the teacher's embeddings."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.losses.maps import averaged, match, pair_up, warn_of_layout, wide_dtype
from svdistill.losses.options import check_factors
from svdistill.losses.protocol import Maps, Reads, TransferLoss

# Squared distances below this fraction of the squared lengths are rounding of float32 maps: the examples coincide.
COINCIDENT = 1000 * torch.finfo(torch.float64).eps


def relational_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, distance: float = 25.0, angle: float = 50.0
) -> Tensor:
    """Compare how the examples of a batch lie to each other in student and teacher, at the last tap.

    distance · mean_{ij} h(δ_S,ij − δ_T,ij) + angle · mean_{ijk} h(cos_S,ijk − cos_T,ijk), where δ_ij = ‖e_i − e_j‖ / μ
    with μ the mean distance of examples that differ, cos_ijk the cosine of the angle at e_j between e_i and e_k, and h
    Huber's loss (½ x² up to 1, |x| − ½ beyond). As in the published code the means are over all B² pairs and B³
    triples, those with equal members included; examples that coincide have distance and cosine 0.

    The embedding e is the last map averaged over its positions, such as the last hidden features: the paper takes the
    output of the last pooling layer. Its width and scale need not agree. A batch of one has loss 0.

    Args:
        student_maps: L ≥ 1 feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating; the last is used.
        teacher_maps: as many; taken as constant.
        distance: weight of the distance term, ≥ 0.
        angle: weight of the angle term, ≥ 0; its memory grows with B³.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast.

    Raises:
        ShapeError: number of taps or shapes do not fit.
        OptionError: a weight is below 0.

    Source: Park, Kim, Lu, Cho, *Relational Knowledge Distillation*, CVPR 2019, equations 5 to 9.
    """
    check_factors(distance=distance, angle=angle)
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps, _extract(teacher_maps, student_maps), distance, angle)


class RelationalLoss(nn.Module, TransferLoss[Maps, Tensor]):
    """`relational_loss` with stored weights of its two terms; see there. Its goal is the teacher's embeddings.

    The defaults, 25 and 50, are the paper's for classification (section 4.2), to be used with a weight of 1.
    """

    reads: ClassVar[Reads] = "maps"
    least_images: ClassVar[int] = 3
    precise: ClassVar[frozenset[str]] = frozenset({"embedding"})  # relations are differences of embeddings

    def __init__(self, distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__()
        check_factors(distance=distance, angle=angle)
        self.distance = distance
        self.angle = angle

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `relational_loss`."""
        return relational_loss(student_maps, teacher_maps, distance=self.distance, angle=self.angle)

    def extract(self, teacher: Maps, student: Maps) -> Tensor:
        """Return the teacher's embeddings.

        Args:
            teacher: maps, as in `relational_loss`.
            student: maps, as in `relational_loss`; only their number and their batch matter.

        Returns:
            (B, D), float64: the last map averaged over its positions.

        Raises:
            ShapeError: see `relational_loss`.
        """
        return _extract(teacher, student)

    def compare(self, student: Maps, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: any embeddings have relations.

        Args:
            student: maps, as in `relational_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these images.
        """
        return _compare(student, goal, self.distance, self.angle), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name the goal ``embedding``."""
        return {"embedding": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return ``embedding``."""
        return stored["embedding"]

    def extra_repr(self) -> str:
        """Show the weights in the module's representation."""
        return f"distance={self.distance}, angle={self.angle}"


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps) -> Tensor:
    return averaged(pair_up(student_maps, teacher_maps, method="RKD")[-1][1])


def _compare(student_maps: Maps, embedding: Tensor, distance: float, angle: float) -> Tensor:
    student = student_maps[-1]
    match([student], [embedding], method="RKD")
    batch = len(student)
    with torch.autocast(student.device.type, enabled=False):
        found, goal = _Relations(averaged(student)), _Relations(embedding.double())
        loss = found.gram.sum() * 0.0  # keeps the graph where a term is off or the batch is empty
        if distance:
            error = functional.smooth_l1_loss(found.distances(), goal.distances(), reduction="sum")
            loss = loss + error * (distance / max(1, batch**2))
        if angle:
            error = functional.smooth_l1_loss(found.cosines(), goal.cosines(), reduction="sum")
            loss = loss + error * (angle / max(1, batch**3))
    return loss.to(wide_dtype(student))


class _Relations:
    """Inner products of a batch's embeddings, and what follows from them.

    In float64, because distances and angles are differences of inner products; they are B × B numbers, where the
    differences themselves would be B × B × D.
    """

    def __init__(self, embedding: Tensor) -> None:
        # Relations do not depend on origin and scale; without them the differences keep most digits.
        if embedding.numel():
            embedding = embedding - embedding.mean(0, keepdim=True).detach()
            scale = embedding.detach().abs().amax()
            embedding = embedding / torch.where(scale > 0, scale, 1.0)
        self.gram = embedding @ embedding.mT
        square = self.gram.diagonal()
        sizes = square[:, None] + square
        squared = sizes - 2 * self.gram
        self.differ = ~(squared.detach() <= COINCIDENT * sizes.detach())  # what is not finite differs, and so shows
        # The root of a zero has no derivative, so such pairs take no part in it.
        self.length = torch.where(self.differ, squared, 1.0).sqrt()

    def distances(self) -> Tensor:
        """Distances in units of their mean, (B, B)."""
        lengths = torch.where(self.differ, self.length, 0.0)
        mean = lengths.sum() / self.differ.sum().clamp_min(1)
        return lengths / torch.where(self.differ.any(), mean, 1.0)

    def cosines(self) -> Tensor:
        """Cosines [j, i, k] of the angle at j between i and k, (B, B, B)."""
        g = self.gram
        inner = g[None] - g[:, :, None] - g[:, None] + g.diagonal()[:, None, None]
        inverse = torch.where(self.differ, 1 / self.length, 0.0)
        return inner * inverse[:, :, None] * inverse[:, None]
