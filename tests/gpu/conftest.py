"""The device of these tests: a CPU, or a GPU with ``SVDISTILL_TEST_DEVICE=cuda``; references are float64 on a CPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    """Where what is tested computes."""
    name = os.environ.get("SVDISTILL_TEST_DEVICE", "cpu")
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible")
    return torch.device("cuda", torch.device(name).index or 0)


@pytest.fixture(autouse=True)
def _exact_convolutions():
    """Keep a GPU from rounding the convolutions of float32 networks to ten bits, which would hide all else."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
