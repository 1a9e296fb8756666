"""Tests of the VGG networks."""

import pytest
import torch
from torch import nn

from svdistill.errors import OptionError
from svdistill.nets import VGG, Taps, create, default_taps, names

PUBLISHED = [name for name in names() if name.startswith("vgg-")]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("image", "sizes"), [(32, [16, 8, 4, 2]), (28, [14, 7, 4, 2]), (17, [9, 5, 3, 2]), (8, [4, 2, 1, 1])]
)
def test_maps_halve_and_round_up(name: str, image: int, sizes: list[int]) -> None:
    """Each block halves the map, rounding up, whether it pools or strides, and has the published channels.

    The last hidden features end the taps.
    """
    model = create(name, num_classes=3, in_channels=1, width=0.25)
    with Taps(model, default_taps(name)) as taps:
        model(torch.randn(2, 1, image, image))
        maps = taps.collect()
    *maps, last = maps
    assert [tuple(m.shape) for m in maps] == [(2, c, s, s) for c, s in zip([16, 32, 64, 128], sizes, strict=True)]
    assert last.shape == (2, 256)


@pytest.mark.parametrize("image", [17, 28, 32])
def test_pool_is_the_identity_on_2x2(image: int) -> None:
    """From 17 to 32 pixels the classifier sees the last map itself."""
    model = create("vgg-student", num_classes=3, width=0.1)
    with Taps(model, ["block4", "pool"]) as taps:
        model(torch.randn(2, 3, image, image))
        last, pooled = taps.collect()
    assert torch.equal(last, pooled)


def test_taps_are_after_relu_and_pool() -> None:
    """A block's output is not negative, and is the pool's output."""
    model = create("vgg-teacher", num_classes=3, width=0.1)
    with Taps(model, ["block2", "block2.pool", "block2.conv2"]) as taps:
        model(torch.randn(2, 3, 32, 32))
        block, pool, conv = taps.collect()
    assert torch.equal(block, pool)
    assert (block >= 0).all()
    assert (conv < 0).any(), "the ReLU changed the convolution's output in place"


def test_layers_of_the_published_teacher() -> None:
    """Convolutions, hidden layers and dropout are those of the published table."""
    model = create("vgg-teacher", num_classes=100)
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 3
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [1024, 1024, 100]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_layers_of_the_published_students() -> None:
    """One convolution a block; the strided one strides where the other pools; no dropout."""
    for name, stride in (("vgg-student", 1), ("vgg-stride-student", 2)):
        model = create(name, num_classes=100)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == [64, 128, 256, 512]
        assert {m.stride for m in convolutions} == {(stride, stride)}
        assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == (4 if stride == 1 else 0)
        assert not any(isinstance(m, nn.Dropout) for m in model.modules())


@pytest.mark.parametrize("name", ["vgg-bn-teacher", "vgg-bn-student", "vgg-bn-stride-student"])
def test_batch_norm_follows_each_convolution(name: str) -> None:
    """Each convolution has no bias and is followed by a batch norm, then a ReLU."""
    layers = [m for m in create(name, num_classes=3, width=0.1).modules() if not list(m.children())]
    places = [i for i, m in enumerate(layers) if isinstance(m, nn.Conv2d)]
    assert places
    for i in places:
        assert layers[i].bias is None
        assert isinstance(layers[i + 1], nn.BatchNorm2d)
        assert isinstance(layers[i + 2], nn.ReLU)


def test_he_normal_initialization() -> None:
    """Weights have deviation √(2 / fan in) and biases are zero."""
    torch.manual_seed(0)
    model = create("vgg-teacher", num_classes=100)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif parameter.numel() > 50_000:
            expected = (2 / parameter[0].numel()) ** 0.5
            # The deviation of n normal numbers is known to 1/√(2n); five of those, at n = 50,000.
            assert abs(parameter.std().item() / expected - 1) < 5 / (2 * 50_000) ** 0.5
            assert abs(parameter.mean().item()) < 5 * expected / 50_000**0.5


def test_signal_keeps_its_size() -> None:
    """Activations neither vanish nor explode through the ten convolutions of the plain teacher."""
    torch.manual_seed(0)
    model = create("vgg-teacher", num_classes=10, width=0.5).eval()
    with torch.no_grad():
        deviation = model(torch.randn(16, 3, 32, 32)).std().item()
    assert 0.1 < deviation < 10


def test_wrong_number_of_blocks() -> None:
    """A plan for another number of blocks is refused."""
    with pytest.raises(OptionError, match="4 blocks"):
        VGG((1, 1), (8,), num_classes=2)


@pytest.mark.parametrize(("name", "depth"), [("vgg8", 1), ("vgg13", 2)])
def test_layers_of_the_five_block_networks(name: str, depth: int) -> None:
    """Five blocks of one or two convolutions with batch norm, three pools within, one linear layer."""
    model = create(name, num_classes=100)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [c for c in (64, 128, 256, 512, 512) for _ in range(depth)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == len(convolutions)
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [100]


@pytest.mark.parametrize(
    ("image", "sizes"),
    [
        ((32, 32), [16, 8, 4, 4, 4]),
        ((64, 64), [32, 16, 8, 8, 4]),
        ((33, 8), [17, 9, 5, 5, 3]),
        ((5, 5), [3, 2, 1, 1, 1]),
    ],
)
def test_maps_of_the_five_block_networks(image: tuple[int, int], sizes: list[int]) -> None:
    """A fourth pool comes in with images of more than 32 pixels, and only with them."""
    model = create("vgg8", num_classes=3, width=1 / 16).eval()
    with Taps(model, default_taps("vgg8")) as taps:
        model(torch.randn(2, 3, *image))
        *maps, last = taps.collect()
    assert last.shape == (2, 32)
    assert [m.shape[2] for m in maps] == sizes
    assert [m.shape[1] for m in maps] == [4, 8, 16, 32, 32]
    assert all((m >= 0).all() for m in maps)


def test_logits_behind_dropout_start_of_one_size() -> None:
    """In train mode the variance is that of the map that the classifier reads, and not 8 times as much."""
    torch.manual_seed(0)
    model = create("vgg-bn-teacher", num_classes=500).train()
    maps = torch.relu(torch.randn(512, 2048)) * 2**0.5  # of second moment 1
    published = create("vgg-teacher", num_classes=500).train()
    with torch.no_grad():
        ours, theirs = (net.get_submodule("classifier")(maps).square().mean() for net in (model, published))
    assert float(ours) == pytest.approx(1, rel=0.15)
    assert float(theirs) == pytest.approx(8, rel=0.15)
