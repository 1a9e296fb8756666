"""A device that can be asked for nothing: what runs on it runs on a GPU without the host ever waiting for data.

Tensors of the meta device have shapes and no values, so whatever would read a value, or make a shape depend on one,
raises there. What would wait on a GPU for other reasons, such as LAPACK-like routines or copies from the host, is
refused by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"
WAITING = ("linalg_eig", "linalg_qr", "linalg_svd", "linalg_inv", "linalg_solve", "linalg_lu", "cholesky", "geqrf")
READING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "lift_fresh")


# Optimizers' fused forms, which this device lacks: they change their arguments in place and wait for nothing, as long
# as the rate is read from the device.
FUSED = ("_fused_sgd_", "_fused_adamw_")


class WaitError(Exception):
    """Something ran that makes the host wait for the device, or may."""


class _Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READING or any(word in name for word in WAITING):
            raise WaitError(f"{name} waits for the device")
        if name in FUSED:
            if not torch.is_tensor(kwargs["lr"]):
                raise WaitError(f"{name} is given its rate as a number, which a captured step would keep")
            return None
        out = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in torch.utils._pytree.tree_leaves((args, kwargs, out)) if torch.is_tensor(x)}
        # Numbers that take part in an operation arrive as tensors without dimensions; they are no copies.
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            raise WaitError(f"{name} copies between {' and '.join(sorted(devices))}")
        return out


def _no_copy(*_: Any, device: Any = None, **__: Any) -> Any:
    raise WaitError(f"torch.tensor copies numbers to {device}")


@contextmanager
def fused_forms() -> Iterator[None]:
    """Let optimizers take their fused form on this device."""
    with (
        patch("svdistill.training.optimizers._FUSED_ON", (DEVICE,)),
        patch("torch.optim.sgd._device_dtype_check_for_fused", lambda *_, **__: None),
        patch("torch.optim.adam._device_dtype_check_for_fused", lambda *_, **__: None),
    ):
        yield


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Refuse what would wait, forward and backward; tensors are to be on `DEVICE`, made inside or outside."""
    # torch.tensor goes past every dispatcher, and this device has no autocast that could be switched off.
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        _Refuse(),
        patch("torch.tensor", _no_copy),
        patch("torch.autocast", lambda *_, **__: nullcontext()),
    ):
        yield
