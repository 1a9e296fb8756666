"""Memory: how the process gets it from the operating system, and what a device has room for."""

import ctypes
import os

import torch

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
# Of a GPU's free memory, the part that data which lie there all the time may take; the rest is for training.
_PART_FOR_DATA = 0.5


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, instead of handing each large block back to the system and asking for it again.

    A feature map is taken and freed in every step; a block that comes anew from the system costs a page fault for every
    4 KiB of it. Kept blocks stay with the process until it ends: it then holds about as much as it did at its peak.

    Nothing is changed where there is no glibc, where another allocator is preloaded (``LD_PRELOAD``), or where a user
    has settings of their own (``MALLOC_…``, ``GLIBC_TUNABLES``).

    Returns:
        Whether it is so now.
    """
    if any(key in ("LD_PRELOAD", "GLIBC_TUNABLES") or key.startswith("MALLOC_") for key in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def has_room_for(size: int, device: torch.device) -> bool:
    """Whether data may lie on a device for the whole of a training.

    Args:
        size: in bytes.
        device: a CPU always has room: there it is the system that decides.
    """
    return device.type != "cuda" or size <= _PART_FOR_DATA * torch.cuda.mem_get_info(device)[0]
