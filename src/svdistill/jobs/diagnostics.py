"""The diagnostics of a trained network, written at the end of a run, so that a report needs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from svdistill import training
from svdistill.atomic import replacing
from svdistill.data import ImageSource, standardize
from svdistill.data.sets import spread
from svdistill.errors import ShapeError, SvdistillWarning, one_line
from svdistill.linalg import assign
from svdistill.linalg.svd import decompose
from svdistill.nets import eval_mode
from svdistill.nets.layouts import Layouts
from svdistill.nets.reader import run_tapped
from svdistill.records import RunRecord

IMAGES = 64  # test images that the spectra are averaged over
PICTURES = 3  # of them that are shown, with their vectors
SIDE = 64  # pixels of a picture
VALUES = 64  # singular values of a map that are kept
CHUNK = 16  # images at a time: early maps of large images are large

Arrays = dict[str, NDArray[Any]]
Lift = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Tapped:
    """A network and where its feature maps are taken.

    Attributes:
        network: the network; its mode stays as it is.
        taps: dotted names of submodules that give maps, as a distiller takes them; () = none is known.
        drop_tokens: the number of leading tokens of (B, N, D) maps to leave out, for instance 1 for a class token.
        layout: of the maps, see :class:`svdistill.Distiller`.
    """

    network: nn.Module
    taps: Sequence[str] = ()
    drop_tokens: int = 0
    layout: Layouts = None

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps of standardized images (B, C, H, W) in eval mode, without their first tokens."""
        with eval_mode(self.network):
            return run_tapped(self.network, self.taps, images, drop_tokens=self.drop_tokens, layout=self.layout)[1]


def diagnose(
    student: Tapped,
    teacher: Tapped | None = None,
    *,
    images: Tensor,
    lift: Lift | None = None,
    pictures: int = PICTURES,
) -> Arrays:
    """Decompose the feature maps of a student and its teacher on a few images.

    A map that is all zero, or holds NaN or infinity, has no vectors (they are zero) and is left out of the means.

    Args:
        student: the trained network.
        teacher: the network that helped it, with as many taps, paired in order; None = the student alone.
        images: (B, C, H, W), standardized, on the networks' device.
        lift: takes the student's maps and returns those that the loss compared, for instance after the adapters; None
            = as they are.
        pictures: the number of images, from the first, whose vectors are kept.

    Returns:
        ``student_taps`` and ``teacher_taps``; ``student_spectrum`` and ``teacher_spectrum`` (L, ≤ 64): fraction of
        a map's energy, σ² / ‖M‖², in each singular value, mean over the images, NaN where there is none;
        ``student_vectors_0`` … and ``teacher_vectors_0`` … (pictures, D), float32: the leading right singular vector at
        each tap, the student's being the one of its first two that matches the teacher's; ``alignment`` (L,): mean
        |cosine| of the two, NaN where the widths differ. Without a teacher, its arrays are missing.

    Raises:
        ShapeError: the numbers of taps differ, or a tap gives something else.
        OptionError: an unknown tap.
    """
    if teacher is not None and len(teacher.taps) != len(student.taps):
        raise ShapeError(f"{len(student.taps)} student taps came with {len(teacher.taps)} teacher taps")
    if not student.taps:
        return {}
    found: list[list[_Tap]] = []
    for chunk in images.split(CHUNK):
        own = student.maps(chunk)
        with torch.no_grad():
            compared = own if lift is None else lift(own)
        theirs = [None] * len(own) if teacher is None else teacher.maps(chunk)
        found.append([_look(*maps) for maps in zip(own, compared, theirs, strict=True)])
    taps = [_join(parts) for parts in zip(*found, strict=True)]
    arrays: Arrays = {
        "student_taps": np.array(student.taps),
        "student_spectrum": _stack([tap.student_fractions for tap in taps]),
        **{f"student_vectors_{i}": _numpy(tap.student[:pictures]) for i, tap in enumerate(taps)},
    }
    if teacher is not None:
        arrays["teacher_taps"] = np.array(teacher.taps)
        arrays["teacher_spectrum"] = _stack([tap.teacher_fractions for tap in taps])
        arrays |= {f"teacher_vectors_{i}": _numpy(tap.teacher[:pictures]) for i, tap in enumerate(taps)}
        arrays["alignment"] = _numpy(torch.stack([tap.cosine.nanmean() for tap in taps]))
    return arrays


def write_diagnostics(
    record: RunRecord,
    student: Tapped,
    teacher: Tapped | None = None,
    *,
    test: ImageSource,
    mean: Tensor,
    std: Tensor,
    lift: Lift | None = None,
    engine: training.Engine | None = None,
) -> None:
    """Write a run's ``insight.npz``: the confusion matrix, a few pictures, and what :func:`diagnose` finds.

    Training has ended when this is called, so whatever goes wrong here is a warning and the run still finishes: a
    report leaves out the figures that it has no numbers for.

    Args:
        record: the run's folder.
        student: the trained network, on the device; without taps there are no spectra and no vectors.
        teacher: the network that helped it, on the device; None = the student alone.
        test: the test images.
        mean: (C,), of the training set.
        std: (C,), of the training set.
        lift: as for :func:`diagnose`.
        engine: whose device and precision the confusion matrix is counted with; None = where the images are.
    """
    arrays: Arrays = {"classes": np.array(test.classes)}
    try:
        counted = training.evaluate(engine, student.network, test, mean=mean, std=std, confusion=True)["confusion"]
        arrays["confusion"] = np.asarray(counted, dtype=np.uint32)
        index = _choose(test.labels.cpu())
        raw = next(iter(test.batches([index])))
        arrays["images"] = _thumbnails(raw[:PICTURES])
        arrays["labels"] = test.labels.cpu()[index[:PICTURES]].numpy()
        device = raw.device if engine is None else engine.device
        images = standardize(raw.to(device), mean, std)
        arrays |= diagnose(student, teacher, images=images, lift=lift)
    except Exception as error:
        _warn(record, error)
    try:
        with replacing(record.diagnostics) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        _warn(record, error)


class _Tap(NamedTuple):
    """What is found at one tap of both networks, for some images."""

    student_fractions: Tensor  # (B, ≤ 64) σ² / ‖M‖²; NaN where the map is zero or not finite
    student: Tensor  # (B, D) leading vector
    teacher_fractions: Tensor  # (B, ≤ 64); (B, 0) without a teacher
    teacher: Tensor  # (B, D); (B, 0) without a teacher
    cosine: Tensor  # (B,) NaN where one of the two has no vector, or the widths differ


def _matrix(feature: Tensor) -> Tensor:
    """View a map as (B, D, N), float32, zero where a sample is not finite."""
    if feature.ndim not in (2, 3, 4) or not feature.is_floating_point() or feature.numel() == 0:
        raise ShapeError(f"a tap gave {tuple(feature.shape)} {feature.dtype}, not (B, C, H, W), (B, N, D) or (B, D)")
    views = {2: lambda: feature[:, :, None], 3: lambda: feature.mT, 4: lambda: feature.flatten(2)}
    x = views[feature.ndim]().float()
    return torch.where(x.isfinite().all(2).all(1)[:, None, None], x, 0.0)


@torch.no_grad()
def _look(own: Tensor, compared: Tensor, theirs: Tensor | None) -> _Tap:
    """Decompose one tap of both networks."""
    fractions, student = _fractions(_matrix(own)), _matrix(compared)
    unknown = fractions.new_full((len(fractions),), torch.nan)
    if theirs is None:
        nothing = fractions.new_zeros(len(fractions), 0)
        return _Tap(fractions, decompose(student, 1).rows[:, 0], nothing, nothing, unknown)
    teacher = _matrix(theirs)
    goal = decompose(teacher, 1)
    if student.shape[1] != teacher.shape[1]:
        return _Tap(fractions, decompose(student, 1).rows[:, 0], _fractions(teacher), goal.rows[:, 0], unknown)
    answer = decompose(student, 2, targets=goal.rows, assign=assign)
    both = (goal.defined & answer.defined)[:, 0].cpu()
    cosine = torch.where(both, answer.cosine[:, 0].cpu(), torch.nan)
    return _Tap(fractions, answer.rows[:, 0], _fractions(teacher), goal.rows[:, 0], cosine)


def _fractions(x: Tensor) -> Tensor:
    """Return the fraction of energy in each singular value of (B, D, N), descending; NaN where a map is zero."""
    x = x.cpu().double()
    x = x / x.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    gram = torch.bmm(x, x.mT) if x.shape[1] <= x.shape[2] else torch.bmm(x.mT, x)
    values: Tensor = torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)
    return (values / values.sum(1, keepdim=True))[:, :VALUES]


def _join(parts: Sequence[_Tap]) -> _Tap:
    return _Tap(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _stack(spectra: Sequence[Tensor]) -> NDArray[Any]:
    """Average over the images and bring all taps to one length."""
    longest = max(spectrum.shape[1] for spectrum in spectra)
    means = [F.pad(one.nanmean(0), (0, longest - one.shape[1]), value=torch.nan) for one in spectra]
    return _numpy(torch.stack(means))


def _numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().float().numpy()
    return array


def _choose(labels: Tensor) -> Tensor:
    """Return indices spread over the whole set, as many are sorted by class; the first are of different classes."""
    index = spread(len(labels), IMAGES)
    classes = labels[index].tolist()
    first = [position for position, label in enumerate(classes) if label not in classes[:position]]
    # Not the first classes: spread over those that there are.
    shown = [first[i * len(first) // PICTURES] for i in range(PICTURES)] if len(first) >= PICTURES else first
    rest = [position for position in range(len(index)) if position not in shown]
    return index[torch.tensor([*shown, *rest])]


def _thumbnails(images: Tensor) -> NDArray[Any]:
    """Return (P, C, h, w) uint8, neither side above 64 pixels."""
    height, width = images.shape[2:]
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        smaller = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        images = smaller.round().clamp(0, 255).to(torch.uint8)
    array: NDArray[Any] = images.cpu().numpy()
    return array


def _warn(record: RunRecord, error: Exception) -> None:
    reason = one_line(error) or type(error).__name__
    warn(SvdistillWarning(f"{record.diagnostics} is incomplete ({reason}); a report leaves figures out"), stacklevel=3)
