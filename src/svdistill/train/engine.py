"""The one file that knows the distributed engine: device, precision and seed of a run."""

import logging
from typing import Literal, cast

import torch
from lightning_fabric import Fabric

from svdistill.errors import RecipeError, nearest

__all__ = ["DEVICES", "PRECISIONS", "Fabric", "launch"]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed")


def launch(*, device: str = "auto", precision: str = "32-true", seed: int) -> Fabric:
    """Choose the device, set the precision and seed everything; a run of one process.

    With one seed, one number of threads and one version of torch, a run on a CPU gives the same weights bit for bit.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``32-true``, or ``bf16-mixed`` for autocast. float16 is left out: it needs a scaled loss, and the two
            gradients of a step, taken one by one, would each need its own scale.
        seed: seeds torch, numpy and random; 0 to 2³² − 1.

    Returns:
        The engine: its device, its autocast and its transfers.

    Raises:
        RecipeError: an unknown device or precision, a seed out of range, or no such device is there.
    """
    if precision not in PRECISIONS:
        raise RecipeError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}")
    if not 0 <= seed < 2**32:
        raise RecipeError(f"the seed is {seed}, expected a whole number from 0 to {2**32 - 1}")
    accelerator, index = _device(device)
    devices = [index] if accelerator == "cuda" else 1
    # It announces the precision that the recipe asks for, in the middle of what a command prints.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator, devices=devices, precision=cast(Literal["32-true", "bf16-mixed"], precision)
    )
    fabric.launch()
    fabric.seed_everything(seed, verbose=False)
    return fabric


def _device(device: str) -> tuple[str, int]:
    """Return the kind of the device and its number."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdigit())):
        raise RecipeError(f"unknown device {device!r}{nearest(device, DEVICES)}")
    available = torch.cuda.device_count()
    if kind == "auto":
        return ("cuda", 0) if available else ("cpu", 0)
    if kind == "cuda" and int(number or 0) >= available:
        raise RecipeError(f"device {device!r} is not there ({available} CUDA devices visible); use device=cpu")
    return kind, int(number or 0)
