"""Tests of the engine: what a device, a precision and a seed become."""

import random

import numpy as np
import pytest
import torch

from svdistill.errors import OptionError
from svdistill.training import launch


def test_the_cpu_is_the_cpu():
    """One process, on the processor that was asked for."""
    engine = launch(device="cpu", seed=0)
    assert engine.device == torch.device("cpu")
    assert engine.world_size == 1


def test_auto_takes_what_is_there():
    """A GPU where there is one."""
    assert launch(device="auto", seed=0).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_one_seed_gives_the_same_numbers_everywhere():
    """In torch, numpy and random."""
    drawn = []
    for _ in range(2):
        launch(device="cpu", seed=7)
        drawn.append((torch.rand(3).tolist(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_precision_is_that_of_autocast(precision, dtype):
    """A product of matrices inside autocast shows it."""
    engine = launch(device="cpu", precision=precision, seed=0)
    with engine.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpux"}, "unknown device 'cpux'; did you mean 'cpu'"),
        ({"device": "cpu:1"}, "unknown device 'cpu:1'"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not there .*; use device=cpu"),
        ({"precision": "16-mixed"}, "unknown precision '16-mixed'; did you mean 'bf16-mixed'"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 2**32}, "the seed is 4294967296"),
    ],
)
def test_errors_say_what_to_use(options, message):
    """Before any work starts."""
    with pytest.raises(OptionError, match=message):
        launch(**{"device": "cpu", "seed": 0, **options})


@pytest.mark.parametrize(
    ("device", "cuda", "message"),
    [
        ("cuda:1", 8, "device 'cuda:1' names one GPU, but 4 processes take one each; use device=cuda"),
        ("cuda", 2, "4 processes on this machine see 2 CUDA devices"),
        ("auto", 1, "4 processes on this machine see 1 CUDA devices"),
    ],
)
def test_processes_need_a_gpu_each(monkeypatch, device, cuda, message):
    """Before they look for each other."""
    here = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    with pytest.raises(OptionError, match=message):
        launch(device=device, seed=0)
