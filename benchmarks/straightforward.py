"""KD-SVD's loss as one would write it down: full SVDs, autograd's derivative, dense relations. The baseline."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def straightforward_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    rank: int,
    basis: Literal["own", "teacher"] = "own",
    beta: float = 8.0,
) -> Tensor:
    """½ √k Σ (DFV_S − DFV_T)², argmax alignment, for maps (B, C, H, W); in the teacher's basis of one size."""
    student, teacher = [], []
    for s_map, t_map in zip(student_maps, teacher_maps, strict=True):
        with torch.no_grad():
            u, sigma, vh = torch.linalg.svd(t_map.flatten(2).mT, full_matrices=False)
            goal, sigma = vh[:, :rank], sigma[:, :rank]
            lean = (goal @ t_map.flatten(2).mean(2, keepdim=True))[..., 0]
            sign = torch.where(lean < 0, -1.0, 1.0)[..., None]
            goal = goal * sign
        if basis == "own":
            answer = _aligned(torch.linalg.svd(s_map.flatten(2).mT, full_matrices=False)[2][:, : rank + 1], goal)
        else:
            left = u[..., :rank].mT * sign
            answer = nn.functional.normalize(left @ s_map.flatten(2).mT, dim=2)
        weight = (sigma / sigma.norm(dim=1, keepdim=True))[..., None]
        student.append(answer * weight)
        teacher.append(goal * weight)
    loss: Tensor = student[0].new_zeros(())
    for tap in range(len(student) - 1):
        kept = min(student[tap].shape[1], student[tap + 1].shape[1])
        relation_s, relation_t = (
            torch.exp(-((v[tap][:, :kept, :, None] - v[tap + 1][:, :kept, None, :]) ** 2) / beta)
            for v in (student, teacher)
        )
        loss = loss + 0.5 * rank**0.5 * (relation_s - relation_t).square().sum()
    return loss


def _aligned(candidates: Tensor, goal: Tensor) -> Tensor:
    cosine = candidates @ goal.mT
    index = cosine.abs().argmax(1)
    sign = torch.where(cosine.gather(1, index[:, None])[:, 0] < 0, -1.0, 1.0)
    return candidates.gather(1, index[..., None].expand(-1, -1, candidates.shape[2])) * sign[..., None]
