"""Tests of parameters and FLOPs."""

import pytest
import torch
from torch import nn

from svdistill.nets import count, create


@pytest.mark.parametrize(
    ("name", "millions_of_parameters", "mflops"),
    [
        ("vgg-teacher", "10.886", "576.27"),
        ("vgg-student", "3.752", "121.18"),
        ("vgg-stride-student", "3.752", "33.60"),
    ],
)
def test_published_table(name: str, millions_of_parameters: str, mflops: str) -> None:
    """Parameters and FLOPs at 32×32×3 and 100 classes are those of METHOD.md section 5."""
    cost = count(create(name, num_classes=100), (3, 32, 32))
    assert f"{cost.parameters / 1e6:.3f}" == millions_of_parameters
    assert f"{cost.flops / 1e6:.2f}" == mflops


@pytest.mark.parametrize("name", ["vgg-teacher", "vgg-student", "vgg-stride-student"])
def test_batch_norm_adds_one_parameter_a_channel(name: str) -> None:
    """Batch norm costs a scale for each channel (its offset replaces the bias) and no FLOPs."""
    plain = create(name, num_classes=5, width=0.25)
    channels = sum(m.out_channels for m in plain.modules() if isinstance(m, nn.Conv2d))
    normalized = count(create(name.replace("vgg", "vgg-bn"), num_classes=5, width=0.25), (3, 32, 32))
    cost = count(plain, (3, 32, 32))
    assert normalized.parameters == cost.parameters + channels
    assert normalized.flops == cost.flops


def test_by_hand() -> None:
    """A convolution and a matrix product, counted by hand; a shared weight counts once."""
    shared = nn.Linear(6, 6)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(2), nn.Linear(20, 6), shared, shared)
    cost = count(model, (2, 4, 5))
    assert cost.parameters == (3 * 2 * 9 + 3) + (20 * 6 + 6) + (6 * 6 + 6)
    assert cost.flops == 2 * (3 * 20 * 2 * 9) + 2 * 3 * (20 * 6) + 2 * (2 * 3 * 36)


def test_model_is_left_as_it_was() -> None:
    """Train modes, running statistics, gradients and random numbers are untouched, also after an error."""
    model = create("vgg-bn-student", num_classes=2, width=0.1)
    model.get_submodule("block2").eval()
    modes = [m.training for m in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    count(model, (3, 16, 16))
    with pytest.raises(ValueError, match="expected"):
        count(model, (5, 16, 16))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_other_dtype() -> None:
    """A float64 network is counted like a float32 one."""
    model = create("vgg-student", num_classes=2, width=0.1)
    assert count(model, (3, 8, 8)) == count(model.double(), (3, 8, 8))
