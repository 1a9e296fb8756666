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
        ("mobilenet-teacher", "2.234", "96.83"),
        ("mobilenet-student", "0.817", "36.78"),
        ("resnext-teacher", "0.654", "542.56"),
        ("resnext-student", "0.341", "273.07"),
    ],
)
def test_published_table(name: str, millions_of_parameters: str, mflops: str) -> None:
    """Parameters and FLOPs at 32×32×3 and 100 classes are those of the published networks."""
    cost = count(create(name, num_classes=100), (3, 32, 32))
    assert f"{cost.parameters / 1e6:.3f}" == millions_of_parameters
    assert f"{cost.flops / 1e6:.2f}" == mflops


def mobilenet(blocks: tuple[int, ...]) -> tuple[int, int]:
    """Weights and multiply-adds of a MobileNet at 32×32×3 and 100 classes, from its row of the table alone."""
    weights, products, size, channels = 3 * 9 * 32 + 2 * 32, 3 * 9 * 32 * 32**2, 32, 32
    for wider, stride, depth in zip((64, 128, 256, 512, 1024), (1, 2, 2, 2, 1), blocks, strict=True):
        for i in range(depth):
            size //= stride if i == 0 else 1
            weights += 9 * channels + 2 * channels + channels * wider + 2 * wider
            products += (9 * channels + channels * wider) * size**2
            channels = wider
    return weights + channels * 100 + 100, products + channels * 100


def resnext(cardinality: int) -> tuple[int, int]:
    """The same of a ResNeXt, each path counted by itself."""
    weights, products, size, channels = 3 * 9 * 64 + 2 * 64, 3 * 9 * 64 * 32**2, 32, 64
    for wider, stride in ((64, 1), (128, 2), (256, 2)):
        for _ in range(cardinality):
            weights += channels * 64 + 2 * 64 + 64 * 9 * 64 + 2 * 64
            products += channels * 64 * size**2 + 64 * 9 * 64 * (size // stride) ** 2
        size //= stride
        weights += cardinality * 64 * wider + 2 * wider
        products += cardinality * 64 * wider * size**2
        channels = wider
    return weights + channels * 100 + 100, products + channels * 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet-teacher", mobilenet((1, 2, 2, 2, 2))),
        ("mobilenet-student", mobilenet((1, 1, 1, 1, 1))),
        ("resnext-teacher", resnext(4)),
        ("resnext-student", resnext(2)),
    ],
)
def test_counted_layer_by_layer(name: str, expected: tuple[int, int]) -> None:
    """Every parameter and every multiply-add of the published pairs is accounted for."""
    parameters, products = expected
    assert count(create(name, num_classes=100), (3, 32, 32)) == (parameters, 2 * products)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 278_324),
        ("resnet56", 861_620),
        ("resnet110", 1_736_564),
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("wrn-16-2", 703_284),
        ("wrn-16-4", 2_772_020),
        ("wrn-40-1", 569_780),
        ("wrn-40-2", 2_255_156),
        ("wrn-40-4", 8_972_340),
        ("vgg8", 3_965_028),
        ("vgg13", 9_462_180),
    ],
)
def test_networks_of_the_usual_protocol(name: str, parameters: int) -> None:
    """Parameters for 100 classes are those that the protocol's own code comes to."""
    with torch.device("meta"):
        assert count(create(name, num_classes=100), (3, 32, 32)).parameters == parameters


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44])
@pytest.mark.parametrize("factor", [1, 4])
def test_residual_networks_by_formula(depth: int, factor: int) -> None:
    """Parameters and multiply-adds of a ResNet in closed form."""
    if factor == 4 and depth not in (8, 32):
        pytest.skip("no such network")
    stem, *stages = (16, 16, 32, 64) if factor == 1 else (32, 64, 128, 256)
    weights, products, before, size = 27 * stem + 2 * stem, 27 * stem * 32**2, stem, 32
    for stage, stride in zip(stages, (1, 2, 2), strict=True):
        size //= stride
        inner = 9 * stage * (before + (2 * (depth - 2) // 6 - 1) * stage)
        shortcut = before * stage if (before, stride) != (stage, 1) else 0
        weights += inner + 2 * stage * (2 * (depth - 2) // 6) + shortcut + (2 * stage if shortcut else 0)
        products += (inner + shortcut) * size**2
        before = stage
    name = f"resnet{depth}" + ("x4" if factor == 4 else "")
    expected = (weights + before * 10 + 10, 2 * (products + before * 10))
    assert count(create(name, num_classes=10), (3, 32, 32)) == expected


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


class Tokens(nn.Module):
    """Cuts an image into 16 tokens of 16 numbers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, 16, 16)."""
        return nn.functional.unfold(images, 4, stride=4).mT


class Attends(nn.Module):
    """Attention as a function."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape."""
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


class Looks(nn.MultiheadAttention):
    """Attention with its weights for queries, keys, values and output."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return tokens of the same shape."""
        return super().forward(tokens, tokens, tokens, need_weights=False)[0]


@pytest.mark.parametrize(
    ("layer", "multiply_adds"),
    [
        (Attends(), 2 * 16 * 16 * 16),
        (Looks(16, 2, batch_first=True), 4 * 16 * 16 * 16 + 2 * 16 * 16 * 16),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 6 * 16 * 16 * 16 + 2 * 16 * 16 * 32),
    ],
)
def test_attention(layer: nn.Module, multiply_adds: int) -> None:
    """It counts, also where torch has one operation for all of it; torch's own choice is put back."""
    before = torch.backends.mha.get_fastpath_enabled()
    assert count(nn.Sequential(Tokens(), layer), (1, 16, 16)).flops == 2 * multiply_adds
    assert torch.backends.mha.get_fastpath_enabled() == before
