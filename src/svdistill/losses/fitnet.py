"""FitNets: a layer of the student learns to predict a layer of the teacher, the hint."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError
from svdistill.losses.maps import (
    as_grid,
    average_pool,
    channels_first,
    match,
    pair_up,
    positions,
    smaller,
    warn_of_layout,
    wide_dtype,
    width,
)
from svdistill.losses.protocol import Maps, Reads, TransferLoss


def fitnet_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    hint: int | None = None,
) -> Tensor:
    """Squared error of the student's map, sent through a 1×1 convolution, against the teacher's at one tap.

    mean_{b, c, positions} ½ (W s + bias − t)². Where the sizes differ, the larger map is average-pooled to the smaller.

    Args:
        student_maps: L ≥ 1 feature maps, each (B, C, H, W), (B, N, D) or (B, D), floating.
        teacher_maps: as many; taken as constant.
        weight: (D_T, D_S) of the regressor; None: none, and then the widths at the hint must agree.
        bias: (D_T,) of the regressor, or None.
        hint: which tap, from 0; None: the middle one, (L − 1) // 2, of the L that have more than one position in one of
            the networks, of all taps where there are none.

    Returns:
        Scalar, float32 (float64 where the maps are), also under autocast; 0 for an empty batch.

    Raises:
        ShapeError: number of taps, shapes, widths or regressor do not fit.
        OptionError: there is no tap of this number.

    Source: Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015, equation 3.
    """
    tap = _chosen(hint, pair_up(student_maps, teacher_maps, method="FitNets"))
    warn_of_layout(student_maps, teacher_maps)
    return _compare(student_maps[tap], _extract(teacher_maps, student_maps, tap), weight, bias)


class FitNetLoss(nn.Module, TransferLoss[Maps, Tensor]):
    """`fitnet_loss` with a stored hint and a regressor that learns along; see there. Its goal is the teacher's map.

    The paper trains in two stages, first the layers up to the hint on this loss alone, summed over channels and
    positions instead of their mean. Later benchmarks train in one stage with a weight of 100 on the mean of squares,
    so 200 of this loss.

    Attributes:
        hint: which tap, from 0; None: the middle one.
        tap: the number of the tap that it is, found by `prepare`; None before.
        regressor: 1×1 convolution from the student's width to the teacher's, made by `prepare`; None before.
    """

    reads: ClassVar[Reads] = "maps"
    storable: ClassVar[bool] = False

    def __init__(self, hint: int | None = None) -> None:
        super().__init__()
        if hint is not None and (isinstance(hint, bool) or not isinstance(hint, int) or hint < 0):
            raise OptionError(f"hint must be the number of a tap, from 0, or None for the middle one, got {hint!r}")
        self.hint = hint
        self.tap: int | None = None
        self.regressor: nn.Conv1d | None = None

    @torch.inference_mode(False)  # or the regressor could never learn
    def prepare(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> None:
        """Make the regressor for maps of these widths; does nothing where it is there and fits.

        Args:
            student_maps: as in `fitnet_loss`, any batch.
            teacher_maps: as in `fitnet_loss`.

        Raises:
            ShapeError: the maps do not fit, or the regressor was made for other widths.
        """
        pairs = pair_up(student_maps, teacher_maps, method="FitNets")
        self.tap = _chosen(self.hint, pairs)
        student, teacher = pairs[self.tap]
        if self.regressor is None:
            self.regressor = nn.Conv1d(
                width(student), width(teacher), 1, device=student.device, dtype=wide_dtype(student)
            )
        _check_regressor(student, teacher, self.regressor.weight[:, :, 0], self.regressor.bias)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss, see `fitnet_loss`; `prepare` comes first."""
        return self.measure(student_maps, teacher_maps)[0]

    def extract(self, teacher: Maps, student: Maps) -> Tensor:
        """Return the teacher's map at the hint.

        Args:
            teacher: maps, as in `fitnet_loss`.
            student: maps, as in `fitnet_loss`; only their shapes and types matter.

        Returns:
            (B, D_T, h, w), at the size at which it is compared.

        Raises:
            ShapeError: see `fitnet_loss`.
        """
        return _extract(teacher, student, self.hint)

    def compare(self, student: Maps, goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and no figures of its health: any map can be regressed.

        Args:
            student: maps, as in `fitnet_loss`.
            goal: what `extract` returned for the same images, of float32 or wider.

        Raises:
            ShapeError: it is not of these images or widths, or `prepare` did not come first.
        """
        if self.regressor is None or self.tap is None:
            raise ShapeError("FitNetLoss has no regressor yet; call prepare with the maps of one batch first")
        if self.tap >= len(student):
            raise ShapeError(f"the hint is tap {self.tap}, but there are {len(student)} taps; call prepare anew")
        return _compare(student[self.tap], goal, self.regressor.weight[:, :, 0], self.regressor.bias), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        """Name the goal ``hint``."""
        return {"hint": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return ``hint``."""
        return stored["hint"]

    def extra_repr(self) -> str:
        """Show the hint in the module's representation."""
        return f"hint={self.hint}"


@torch.no_grad()
def _extract(teacher_maps: Maps, student_maps: Maps, hint: int | None) -> Tensor:
    pairs = pair_up(student_maps, teacher_maps, method="FitNets")
    student, teacher = pairs[_chosen(hint, pairs)]
    with torch.autocast(teacher.device.type, enabled=False):
        grid = as_grid(teacher, student)
        return average_pool(grid.to(wide_dtype(student)), smaller(as_grid(student, teacher), grid))


def _compare(student: Tensor, goal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    match([student], [goal], method="FitNets")
    _check_regressor(student, goal, weight, bias)
    dtype = wide_dtype(student)
    with torch.autocast(student.device.type, enabled=False):
        # Averaging and a 1×1 convolution commute, so the pooled map, the smaller one, is regressed.
        found = channels_first(average_pool(as_grid(student, goal).to(dtype), (goal.shape[2], goal.shape[3])))
        if weight is not None:
            found = torch.matmul(weight.to(dtype), found)
        if bias is not None:
            found = found + bias.to(dtype)[:, None]
        return (found - channels_first(goal)).square().sum() * (0.5 / max(1, goal.numel()))


def _chosen(hint: int | None, pairs: Sequence[tuple[Tensor, Tensor]]) -> int:
    taps = len(pairs)
    if hint is None:
        among = [tap for tap, pair in enumerate(pairs) if any(positions(one) > 1 for one in pair)] or range(taps)
        return among[(len(among) - 1) // 2]
    if not (isinstance(hint, int | SupportsIndex) and 0 <= hint < taps):
        raise OptionError(f"hint is tap {hint!r} of {taps}; choose 0 to {taps - 1}, or None for the middle one")
    return hint


def _check_regressor(student: Tensor, teacher: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    wanted = (width(teacher), width(student))
    if weight is None and wanted[0] != wanted[1]:
        raise ShapeError(
            f"the hint has {wanted[1]} channels in the student and {wanted[0]} in the teacher; "
            "give a regressor (FitNetLoss makes one), or choose a tap whose widths agree"
        )
    if weight is not None and tuple(weight.shape) != wanted:
        raise ShapeError(
            f"the regressor's weight is {tuple(weight.shape)}, expected {wanted} for {wanted[1]} channels of the "
            f"student and {wanted[0]} of the teacher at the hint"
        )
    if bias is not None and tuple(bias.shape) != wanted[:1]:
        raise ShapeError(f"the regressor's bias is {tuple(bias.shape)}, expected {wanted[:1]}")
