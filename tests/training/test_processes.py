"""Two real processes do what one does: the same weights, figures and evaluations."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.trees import equal
from torch import nn

from svdistill import training
from svdistill.errors import TrainingError
from svdistill.training import sharding
from svdistill.training.reduce import all_reduce

PROGRAM = Path(__file__).with_name("shared_steps.py")
EPS = torch.finfo(torch.float32).eps


def shared_steps():
    """Import the program, which is no test, to do the same here in one process."""
    spec = importlib.util.spec_from_file_location("shared_steps", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ONE = shared_steps()
STEPS = list(ONE.STEPS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("two")
    for status, _, errors in processes.run(PROGRAM, folder):
        assert status == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same_weights(found, expected):
    """Compare weights to float32 rounding, measured by each tensor's largest entry."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        limit = 64 * EPS * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=limit, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_come_to_the_weights_of_one(two, name):
    """After four steps on the same joined batches; no learning would be seen, so the start must be far away."""
    expected = ONE.steps(name, parts=1)
    start = ONE.steps(name, parts=1, count=0)["weights"]
    assert any((expected["weights"][key] - value).abs().max() > 1e-3 for key, value in start.items())
    assert_same_weights(two[0][name]["weights"], expected["weights"])


@pytest.mark.parametrize("name", STEPS)
def test_both_processes_have_the_same_weights_bit_for_bit(two, name):
    """And the same figures, so that either could write the checkpoint."""
    first, second = (part[name] for part in two)
    assert equal(first["weights"], second["weights"])
    assert first["metrics"] == second["metrics"]
    assert first["health"] == second["health"]


@pytest.mark.parametrize("name", STEPS)
def test_the_figures_are_those_of_the_whole_batch(two, name):
    """Losses, accuracy, and what became of the transfer gradient."""
    expected = ONE.steps(name, parts=1)
    for key in ("metrics", "health"):
        assert two[0][name][key].keys() == expected[key].keys()
        assert two[0][name][key] == pytest.approx(expected[key], rel=1e-5), key


@pytest.mark.parametrize("name", STEPS)
def test_no_image_is_worked_on_twice(two, name):
    """The two shards are disjoint, and together what one process sees."""
    first, second = (part[name]["seen"] for part in two)
    assert sorted(first + second) == sorted(ONE.steps(name, parts=1)["seen"])


@pytest.mark.parametrize("count", [31, 1])
def test_evaluation_is_exact_on_uneven_shards(two, engine, count):
    """Also where a process has no image at all."""
    expected = ONE.measured(count, processes=training.Processes(engine))
    for part in two:
        found = part["measured"][count]
        assert found["confusion"] == expected["confusion"]
        assert found["accuracy"] == expected["accuracy"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_what_one_decides_all_know(two):
    """Results and errors of the first, errors of any."""
    first, second = (part["agreements"] for part in two)
    assert first["rank zero"] == second["rank zero"] == "said by 0"
    assert first["slow"] == second["slow"] == sum(range(10**7))
    assert (first["turns"], second["turns"]) == (0, 1)
    assert first["all ranks"] == second["all ranks"] == ("RecipeError", "the second alone")
    assert first["crash"] == ("ZeroDivisionError", "not one of ours")
    kind, text = second["crash"]
    assert kind == "TrainingError"
    assert text.startswith("process 0 on ")
    assert text.endswith("ZeroDivisionError: not one of ours")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[/src/gloo/transport/tcp/pair.cc:547] Connection closed by peer", "(Connection closed by peer)"),
        ("[../ProcessGroupNCCL.cpp:94] unhandled system error,\nask for NCCL_DEBUG.", "error, ask for NCCL_DEBUG)"),
        ("", "(RuntimeError)"),
        ("x" * 1000, "xx…)"),
    ],
)
def test_a_broken_connection_is_reported_with_its_reason(monkeypatch, said, reason):
    """In one line, since a wrong network looks like a process that has ended."""

    def broken(_):
        raise RuntimeError(said)

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(TrainingError, match=r"^another process of this run has ended") as caught:
        all_reduce(torch.zeros(1))
    assert f"{reason}; call the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_running_statistics_are_averaged(two):
    """Means and variances, not the count of batches."""
    for part in two:
        found = part["agreements"]
        assert (found["mean"], found["variance"], found["counted"]) == ([0.5, 0.5], [2.0, 2.0], 0)


def test_random_numbers_differ_between_processes(two):
    """So they drop out different units."""
    assert two[0]["agreements"]["random"] != two[1]["agreements"]["random"]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", STEPS)
def test_accumulation_gives_the_gradient_of_the_large_batch(name, parts):
    """In one process, the batch worked on in parts."""
    whole, divided = (ONE.steps(name, parts=n) for n in (1, parts))
    assert_same_weights(divided["weights"], whole["weights"])
    assert divided["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)


def test_one_process_tells_itself(engine):
    """Nothing is sent, errors pass as they are."""
    alone = training.Processes(engine)
    assert (alone.rank, alone.world, alone.is_rank_zero, alone.shard.of) == (0, 1, True, 1)
    assert [alone.on_rank_zero(lambda: 1), alone.on_all_ranks(lambda: 2), alone.rank_zero_first(lambda: 3)] == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        alone.on_all_ranks(lambda: 1 / 0)
    state = torch.get_rng_state()
    alone.vary_random_numbers(3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert training.speaks_first()


def test_a_sharded_teacher_gives_what_the_whole_one_does(two):
    """Logits and taps bit for bit, as plain tensors; each process holds half of it, and a little for what is uneven."""
    for part in two:
        found = part["sharded"]
        assert (found["equal"], found["plain"], found["training"]) == (True, True, False)
        whole, shards = found["held"]
        assert 0.49 < shards / whole < 0.52


def test_one_process_keeps_its_teacher(engine):
    """There is nobody to share it with."""
    teacher = nn.Linear(3, 2)
    assert not training.shard_parameters(engine, teacher, torch.rand(1, 3))
    assert sharding.held(teacher) == 8 * 4


class Attention(nn.Module):
    """Takes the weights of a child and does the rest itself, as torch's own attention does."""

    def __init__(self):
        super().__init__()
        self.own, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        """Use one child's weights, and call the other."""
        return self.called(nn.functional.linear(x, self.own.weight))


def test_blocks_are_called_and_do_not_overlap():
    """What is not called as a module is no block, however large."""
    inner = nn.ModuleList([nn.Linear(4, 4), Attention()])

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = inner, nn.Sequential(nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x):
            for module in self.inner:
                x = module(x)
            return self.last(x)

    network, x = Network(), torch.rand(2, 4)
    assert sharding.blocks(network, x, largest=0.1) == [inner[0], inner[1].called, network.last[1]]
    assert sharding.blocks(network, x, largest=0.5) == [inner[0], inner[1].called, network.last]
    assert sharding.blocks(network, x, largest=1.0) == [inner[0], inner[1], network.last]
