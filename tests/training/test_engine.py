"""Tests of the engine: what a device, a precision, a seed and a launcher's environment become."""

import ast
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import svdistill
from svdistill.errors import OptionError
from svdistill.ranks import Ranks
from svdistill.training import engine as engines
from svdistill.training import launch

# The files of training that may talk to other processes; the rest of the package asks them.
DISTRIBUTED = {"engine.py", "processes.py", "reduce.py", "sharding.py"}


def test_the_cpu_is_the_cpu():
    """One process, on the processor that was asked for."""
    engine = launch(device="cpu", seed=0)
    assert engine.device == torch.device("cpu")
    assert engine.world_size == 1


def test_auto_takes_what_is_there():
    """A GPU where there is one."""
    assert launch(device="auto", seed=0).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_one_seed_gives_the_same_numbers_everywhere():
    """In torch, numpy and random: those that each library gives for this seed, every time."""
    torch.manual_seed(7)
    expected = torch.rand(3).tolist(), np.random.RandomState(7).rand(), random.Random(7).random()
    for _ in range(2):
        launch(device="cpu", seed=7)
        assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == expected


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


def test_tensors_go_to_the_device():
    """One as one, several as several; what is there already is not copied."""
    engine = launch(device="cpu", seed=0)
    images, labels = torch.ones(2, 3), torch.arange(2)
    assert engine.to_device(images) is images
    both = engine.to_device((images, labels))
    assert both[0] is images
    assert both[1] is labels


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "localhost"),
        ({"SLURM_STEP_NODELIST": "gpu7"}, "gpu7"),
        ({"SLURM_STEP_NODELIST": "gpu7,gpu9"}, "gpu7"),
        ({"SLURM_STEP_NODELIST": "gpu[03-05,9],login"}, "gpu03"),
        ({"SLURM_STEP_NODELIST": "gpu[4,6]"}, "gpu4"),
        ({"SLURM_STEP_NODELIST": "gpu[4]"}, "gpu4"),
        ({"SLURM_STEP_NODELIST": "gpu[4,6]", "MASTER_ADDR": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_the_first_machine_is_where_rank_zero_listens(monkeypatch, environment, address):
    """The one that is named, else the first of those that Slurm lists."""
    for name in ("SLURM_STEP_NODELIST", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert engines._root_address() == address


@pytest.mark.parametrize(
    ("environment", "port"),
    [({}, 15000), ({"SLURM_JOB_ID": "1500", "SLURM_STEP_ID": "3"}, 15503), ({"MASTER_PORT": "29500"}, 29500)],
)
def test_jobs_of_one_machine_take_different_ports(monkeypatch, environment, port):
    """The one that is named, else one made of Slurm's numbers."""
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert engines._root_port() == port


@pytest.mark.parametrize(("given", "threads"), [(None, 2), ("3", None)])
def test_processes_of_a_machine_divide_its_cores(monkeypatch, given, threads):
    """Unless the environment says how many threads each has."""
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(engines, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    engines._divide_cores(Ranks(5, 8, 1, 4, "slurm"))
    assert asked == ([threads] if threads else [])
    assert os.environ["OMP_NUM_THREADS"] == (given or str(threads))


def test_few_files_know_the_distributed_engine():
    """The rest of the package does not import torch.distributed."""
    source = Path(svdistill.__file__).parent
    users = {path.relative_to(source).as_posix() for path in source.rglob("*.py") if _imports_distributed(path)}
    assert users <= {f"training/{name}" for name in DISTRIBUTED}


def _imports_distributed(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    called = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    return any(name.startswith("torch.distributed") for name in modules | called)
