"""Where float32 has to be float32, whatever the rest of the program runs in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Switch off autocast, and TF32 or bfloat16 inside float32 products, until the block is left.

    TF32 keeps 3 digits of a product, of which a singular vector's derivative would keep none. The setting belongs to
    the process, so it is put back as it was; what `torch.compile` compiles follows the program's own setting.

    Args:
        device: where the tensors are.
    """
    before = "highest" if torch.compiler.is_compiling() else torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if before == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
