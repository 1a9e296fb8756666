"""What a result depends on besides its recipe, and what of the recipe it does not depend on."""

import platform
import sys
from pathlib import Path
from typing import Any

# Where the files lie, on what the run runs and how often it saves: none of it changes the result beyond rounding.
MACHINE_KEYS = (
    "data.root",
    "train.device",
    "train.compile",
    "train.capture",
    "train.channels_last",
    "train.recompute",
    "train.checkpoint_minutes",
    "train.log",
    "teacher.shard",
)
# What a run's folder is not called after: also where the images without labels lie.
NOT_TOLD_APART = (*MACHINE_KEYS, "data.unlabelled.root")


def environment() -> dict[str, Any]:
    """Return what a result depends on besides its recipe: versions, processor, GPU and number of threads."""
    import torch  # late: reading records back needs no torch

    from svdistill.ranks import find_ranks
    from svdistill.version import __version__

    return {
        "svdistill": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": find_ranks().world,
        "command": sys.argv,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
