"""What svdistill runs on, for a report of a fault: versions, processor, GPU, libraries, folders."""

import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from svdistill.machine import usable_cores
from svdistill.version import __version__

# What of a processor decides which kernels run.
_INSTRUCTIONS = (
    "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTHONPATH",
    "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "NO_COLOR", "COLUMNS",
)  # fmt: skip
_DEVELOPMENT = "dev"  # the extra of those who work on svdistill itself
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:.*extra\s*==\s*['\"]([\w-]+)['\"])?")


def surroundings() -> dict[str, dict[str, Any]]:
    """Return what svdistill runs on.

    Returns:
        By section (``versions``, ``processor``, ``torch``, ``libraries``, ``variables``, ``folders``) its entries, of
        plain values; None for what is not there. What cannot be asked, as torch does not load, says why.
    """
    return {
        "versions": {
            "svdistill": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
        },
        "processor": _processor(),
        "torch": _asked(_torch),
        "libraries": _libraries(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "folders": {"svdistill": str(Path(__file__).parent), "python": sys.executable, **_asked(_caches)},
    }


def _asked(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask what needs torch, which may be missing or broken: that is then what a report is about."""
    try:
        return ask()
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _processor() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(told.get("flags", told.get("Features", "")).split())
    return {
        "name": told.get("model name") or platform.processor() or platform.machine(),
        "instructions": " ".join(flag for flag in _INSTRUCTIONS if flag in flags) or None,
        "usable cores": usable_cores(),
    }


def _torch() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": torch.backends.cudnn.version(),
        "kernels for": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "threads": torch.get_num_threads(),
        "GPUs": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
    }


def _caches() -> dict[str, Any]:
    import torch

    from svdistill.data import cache_folder

    hub = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return {
        "data sets": str(cache_folder("").parent / "svdistill"),
        "torch hub": torch.hub.get_dir(),
        "HF hub": str(hub),
    }


def _libraries() -> dict[str, str | None]:
    """Return the versions of what svdistill requires and of its extras, as they are installed; nothing is imported."""
    try:
        wanted = [_REQUIREMENT.match(text) for text in metadata.requires("svdistill") or ()]
    except metadata.PackageNotFoundError:  # it lies on a path, and is not installed
        return {}
    names = {found[1].lower() for found in wanted if found is not None and found[2] != _DEVELOPMENT}
    return {name: _version(name) for name in sorted({*names, "torchvision"} - {"svdistill", "torch"})}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def as_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write it as a block of text that can be pasted into a report.

    Args:
        found: as `surroundings` returns it.
    """
    lines = []
    for section, entries in found.items():
        lines.append(section)
        for name, value in entries.items():
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            lines.append(f"  {name}: {'–' if shown is None else shown}")
    return lines
