"""Tests of where the channels of a map are: what shapes and layers tell, and what has to be asked."""

import pytest
import torch
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError
from svdistill.nets.layouts import Layer, arranged, check_layouts, find_layout, last_layers

FIRST, LAST = "channels_first", "channels_last"
CONV, LINEAR = True, False


def found(shape: tuple[int, ...], image: tuple[int, int] = (32, 32), *layers: Layer) -> str | None:
    """The layout of a map of this shape, or what the message says."""
    try:
        return find_layout(torch.zeros(2, *shape), torch.zeros(2, 3, *image), layers, name="x", who="teacher")
    except ShapeError as error:
        return str(error)


@pytest.mark.parametrize(
    ("shape", "image", "layers", "layout"),
    [
        ((16, 8, 8), (32, 32), (), FIRST),
        ((256, 8, 8), (32, 32), (Layer(8, CONV),), FIRST),  # a dense block: what came last is one of many
        ((8, 8, 16), (32, 32), (Layer(16, LINEAR),), LAST),
        ((8, 8, 16), (32, 32), (Layer(3, LINEAR), Layer(16, LINEAR)), LAST),  # a side branch came in between
        ((6, 10, 24), (12, 20), (Layer(24, LINEAR),), LAST),
        ((4, 4, 7), (12, 20), (Layer(4, CONV),), FIRST),  # 4 × 7 is as near to 12 × 20 as pixels allow
        ((8, 8, 8), (32, 32), (Layer(8, CONV),), FIRST),
        ((64, 1, 1), (12, 20), (), FIRST),
        ((5, 7, 3), (32, 32), (Layer(5, CONV),), FIRST),  # strides of its own
        ((16, 50), (32, 32), (Layer(50, LINEAR),), LAST),
        ((16, 50), (32, 32), (Layer(16, CONV),), FIRST),
        ((16, 50), (32, 32), (Layer(16, LINEAR), Layer(64, LINEAR)), FIRST),  # transposed after its last layer
        ((16, 1), (32, 32), (Layer(16, LINEAR),), FIRST),  # and pooled
    ],
)
def test_shapes_and_layers_tell(
    shape: tuple[int, ...], image: tuple[int, int], layers: tuple[Layer, ...], layout: str
) -> None:
    """Worked out by hand."""
    assert found(shape, image, *layers) == layout


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((8, 8, 16), ()),
        ((8, 8, 16), (Layer(8, CONV),)),
        ((8, 8, 8), (Layer(8, LINEAR),)),
        ((8, 8, 8), ()),
        ((7, 8, 96), ()),  # neither two dimensions are those of the images, and no layer is known
        ((7, 8, 96), (Layer(8, CONV),)),
        ((5, 7, 3), (Layer(3, LINEAR),)),
        ((16, 16), (Layer(16, LINEAR),)),
        ((16, 50), ()),
        ((16, 50), (Layer(25, CONV), Layer(16, CONV))),
        ((16, 50), (Layer(16, LINEAR), Layer(32, LINEAR), Layer(50, LINEAR))),  # which may mix positions
    ],
)
def test_nothing_is_guessed(shape: tuple[int, ...], layers: tuple[Layer, ...]) -> None:
    """Where they do not settle it, one line says how to."""
    told = found(shape, (32, 32), *layers)
    assert told is not None
    assert told.startswith(f"tap 'x' of the teacher gives {(2, *shape)}, which does not show")
    assert "set teacher_layout, or 'layout' in a recipe: channels_last for (B, " in told
    assert "\n" not in told


def test_a_vector_has_no_layout() -> None:
    """Nor has anything that is neither a map nor tokens."""
    assert found((16,)) is None
    assert found((1, 2, 3, 4)) is None


def test_arranged_maps_are_views() -> None:
    """The same numbers, with the channels where the losses look for them."""
    grid, tokens = torch.randn(2, 4, 5, 3), torch.randn(2, 7, 3)
    assert arranged(grid, LAST)[1, 2, 3, 4] == grid[1, 3, 4, 2]  # type: ignore[arg-type]
    assert arranged(grid, LAST).data_ptr() == grid.data_ptr()  # type: ignore[arg-type]
    assert arranged(grid, FIRST) is grid  # type: ignore[arg-type]
    assert torch.equal(arranged(tokens, FIRST), tokens.mT)  # type: ignore[arg-type]
    assert arranged(tokens, LAST) is tokens  # type: ignore[arg-type]


def test_wrong_settings() -> None:
    """A misspelt layout, and another number of them than of taps."""
    assert check_layouts("channels_last", 2) == (LAST, LAST)
    assert check_layouts(None, 1) == (None,)
    assert check_layouts(["channels_last", None], 2) == (LAST, None)
    with pytest.raises(OptionError, match="unknown layout 'nhwc'"):
        check_layouts("nhwc", 2)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="1 layouts came for 2 taps"):
        check_layouts(["channels_last"], 2)


def test_layers_before_a_tap() -> None:
    """The latest first, the tap itself among them; no hook is left."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 5))
    with last_layers(model, ["0", "2", "4"]) as layers:
        model(torch.randn(2, 3, 8, 8))
    assert layers["0"] == [Layer(4, True)]
    assert layers["2"] == [Layer(4, True)] * 2
    assert layers["4"] == [Layer(5, False), Layer(4, True), Layer(4, True)]
    assert not any(module._forward_hooks for module in model.modules())


class Blocks(nn.Module):
    """A network of the kind of Swin: blocks of maps (B, H, W, C), of which the second halves them and adds a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block1, self.block2 = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 8), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H/4, W/4, 16)."""
        x = self.block1(self.patches(x).permute(0, 2, 3, 1))
        merged = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        output: Tensor = self.block2(merged)
        return output


def test_of_a_network_that_changes_its_layout() -> None:
    """Its first tap is (B, C, H, W), the others are (B, H, W, C)."""
    model, images, taps = Blocks(), torch.randn(2, 3, 24, 24), ["patches", "block1", "block2"]
    maps: dict[str, Tensor] = {}
    for tap in taps:
        model.get_submodule(tap).register_forward_hook(lambda m, a, output, tap=tap: maps.update({tap: output}))
    with last_layers(model, taps) as layers:
        model(images)
    layouts = [find_layout(maps[tap], images, layers[tap], name=tap) for tap in taps]
    assert layouts == [FIRST, LAST, LAST]
