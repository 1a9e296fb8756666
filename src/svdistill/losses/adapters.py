"""Learned layers that lift a student's narrow feature maps to the teacher's widths, for training only."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from svdistill.errors import ShapeError
from svdistill.losses.maps import channels_first, pair_up, wide_dtype, width


class Adapters(nn.Module):
    """A 1×1 convolution and batch norm for each tap whose width differs between student and teacher.

    A tap whose widths agree is handed on as it is. The convolution has no bias, since batch norm has one. Everything
    runs in float32 at least, also under autocast.

    Args:
        widths: for each tap (student's width, teacher's width), or None where they agree.

    Attributes:
        widths: as given.

    Raises:
        ShapeError: a width is not an integer of at least 1.

    Source: as ResNet's projections (He et al., CVPR 2016) and the regressors in later work on distillation;
    KD-SVD as published needs equal widths.
    """

    def __init__(self, widths: Sequence[tuple[int, int] | None]) -> None:
        super().__init__()
        for pair in widths:
            if pair is not None and (len(pair) != 2 or any(not isinstance(w, int) or w < 1 for w in pair)):
                raise ShapeError(f"a tap's widths must be two integers of at least 1, or None, got {pair!r}")
        self.widths: tuple[tuple[int, int] | None, ...] = tuple(widths)
        self.layers = nn.ModuleList(nn.Identity() if pair is None else _Lift(*pair) for pair in self.widths)

    @classmethod
    def between(cls, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Self | None:
        """Make the adapters that maps like these need; None where all widths agree.

        Args:
            student_maps: feature maps of one batch, each (B, C, H, W), (B, N, D) or (B, D), floating.
            teacher_maps: as many.

        Raises:
            ShapeError: number of taps or shapes do not fit.
        """
        pairs = pair_up(student_maps, teacher_maps, method="An adapter")
        widths = [(width(student), width(teacher)) for student, teacher in pairs]
        needed = [None if pair[0] == pair[1] else pair for pair in widths]
        if not any(needed):
            return None
        return cls(needed).to(device=student_maps[0].device, dtype=wide_dtype(*student_maps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Lift the student's maps.

        Args:
            maps: feature maps of all taps, in any of the three layouts.

        Returns:
            As many maps of the same layouts, at the teacher's widths.

        Raises:
            ShapeError: number of taps or a width is not what the adapters were made for.
        """
        if len(maps) != len(self.widths):
            raise ShapeError(f"the adapters were made for {len(self.widths)} taps, got {len(maps)} maps")
        for tap, (feature, pair) in enumerate(zip(maps, self.widths, strict=True)):
            if pair is not None and width(feature) != pair[0]:
                raise ShapeError(
                    f"the adapter of tap {tap} was made for {pair[0]} channels, got {width(feature)} "
                    f"of a map {tuple(feature.shape)}"
                )
        return [layer(feature) for layer, feature in zip(self.layers, maps, strict=True)]

    def extra_repr(self) -> str:
        """Show the widths in the module's representation."""
        return f"widths={self.widths}"


class _Lift(nn.Module):
    """Convolution and batch norm on the (B, D, N) view of a map."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(narrow, wide, 1, bias=False)
        self.norm = nn.BatchNorm1d(wide)

    def forward(self, feature: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            lifted = self._norm(self.convolution(channels_first(feature).to(self.convolution.weight.dtype)))
        if feature.dim() == 4:
            return lifted.reshape(*lifted.shape[:2], *feature.shape[2:])
        return lifted.mT if feature.dim() == 3 else lifted[:, :, 0]

    def _norm(self, lifted: Tensor) -> Tensor:
        if self.training and lifted.shape[0] * lifted.shape[2] <= 1:
            # One number a channel has no deviation: the last image of an epoch, at a tap of one position, alone in its
            # batch. The running statistics stand in.
            norm = self.norm
            return functional.batch_norm(lifted, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        normed: Tensor = self.norm(lifted)
        return normed
