"""Where the channels of a feature map stand: said by whoever uses the network, or told by what can be seen of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from svdistill.choices import LAYOUTS, Layout
from svdistill.errors import OptionError, ShapeError, nearest

Layouts = Layout | Sequence[Layout | None] | None


# How far back to look where the last layer before a tap is a side branch.
_LAYERS = 8


class Layer(NamedTuple):
    """What a layer says of the map that comes after it.

    Attributes:
        width: how many channels it gives.
        channels_first: whether these come before the positions in what it gives itself.
    """

    width: int
    channels_first: bool


Layers = Sequence[Layer]


@contextmanager
def last_layers(model: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Layers]]:
    """Note at each tap, while a model runs in a ``with`` block, the last layers that have channels: its map's origin.

    Args:
        model: any module that is not compiled; its hooks are as before at the end.
        taps: names of submodules.

    Yields:
        Filled as the model runs: the layers up to each tap, the tap itself among them, the latest first.
    """
    found: dict[str, Layers] = {}
    last: list[Layer] = []

    def note(layer: Layer) -> Callable[..., None]:
        return lambda *_: last.append(layer)

    def look(tap: str) -> Callable[..., None]:
        return lambda *_: found.update({tap: last[: -_LAYERS - 1 : -1]})

    layers = [(module, layer) for module in model.modules() if (layer := _layer(module)) is not None]
    # A tap may be such a layer itself, so its own note comes before the look.
    handles = [module.register_forward_hook(note(layer)) for module, layer in layers]
    handles += [model.get_submodule(tap).register_forward_hook(look(tap)) for tap in dict.fromkeys(taps)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def declared_layers(model: nn.Module, taps: Sequence[str]) -> dict[str, Layers]:
    """Return the layers inside each tap that have channels, the latest declared first, of a model that runs no hooks.

    Args:
        model: any module, for instance one that is compiled.
        taps: names of submodules.
    """
    inside = {tap: [_layer(module) for module in model.get_submodule(tap).modules()] for tap in taps}
    return {tap: [layer for layer in reversed(layers) if layer][:_LAYERS] for tap, layers in inside.items()}


def check_layouts(layout: Layouts, taps: int) -> tuple[Layout | None, ...]:
    """Return the layout of each tap, None where it is not given.

    Args:
        layout: one for all taps, or one for each.
        taps: how many there are.

    Raises:
        OptionError: an unknown layout, or another number of them.
    """
    layouts = (layout,) * taps if layout is None or isinstance(layout, str) else tuple(layout)
    for one in layouts:
        if one is not None and one not in LAYOUTS:
            raise OptionError(f"unknown layout {one!r}{nearest(str(one), LAYOUTS)}")
    if len(layouts) != taps:
        raise OptionError(f"{len(layouts)} layouts came for {taps} taps; give one for all, or one for each tap")
    return layouts


def find_layout(feature: Tensor, images: Tensor, layers: Layers, *, name: str, who: str = "network") -> Layout | None:
    """Tell a map's layout by its shape, by that of the images, and by the layers that it came from.

    Two dimensions that have the images' ratio of height to width are taken for height and width, and a dimension as
    large as the last layer is wide for the channels. Nothing is guessed: where these do not settle it, it is asked for.

    Args:
        feature: (B, C, H, W), (B, H, W, C), (B, C, T) or (B, N, D); any other has no layout.
        images: what the network was given.
        layers: those that ran before the map was there, the latest first; () where that is not known.
        name: of the tap, for the message.
        who: whose tap it is, for the message.

    Returns:
        The layout; None for a map of other dimensions.

    Raises:
        ShapeError: there is no telling.
    """
    if feature.ndim == 4:
        found = _of_grid(tuple(feature.shape[1:]), images, layers)
        choices = "channels_last for (B, H, W, C), channels_first for (B, C, H, W)"
    elif feature.ndim == 3:
        found = _by_width(tuple(feature.shape[1:]), layers[:1])
        moved = found == "channels_first" and not layers[0].channels_first
        if moved and any(layer.width == feature.shape[2] for layer in layers):
            found = None  # its channels were moved to the front, or it mixes positions, as one of an MLP-Mixer does
        choices = "channels_last for (B, N, D), channels_first for (B, C, T)"
    else:
        return None
    if found is None:
        raise ShapeError(
            f"tap {name!r} of the {who} gives {tuple(feature.shape)}, which does not show where its channels are; "
            f"set {who}_layout, or 'layout' in a recipe: {choices}"
        )
    return found


def arranged(feature: Tensor, layout: Layout | None) -> Tensor:
    """View a map of a layout as the losses take it: (B, C, H, W) or (B, N, D)."""
    if feature.ndim == 4 and layout == "channels_last":
        return feature.permute(0, 3, 1, 2)
    return feature.mT if feature.ndim == 3 and layout == "channels_first" else feature


def _of_grid(shape: tuple[int, ...], images: Tensor, layers: Layers) -> Layout | None:
    in_front, behind = _is_alike(shape[1:], images), _is_alike(shape[:2], images)
    if in_front and behind:  # all three alike, or positions in one row
        of_maps = bool(layers) and layers[0].channels_first
        return _by_width(shape, layers[:1]) or ("channels_first" if of_maps else None)
    if in_front:
        return "channels_first"
    said = _by_width(shape, layers if behind else layers[:1])
    return said if said == ("channels_last" if behind else "channels_first") else None


def _by_width(shape: tuple[int, ...], layers: Layers) -> Layout | None:
    """Find the latest layer that is as wide as the first dimension or as the last, but not as both."""
    if shape[0] == shape[-1]:
        return None
    widths: dict[int, Layout] = {shape[0]: "channels_first", shape[-1]: "channels_last"}
    return next((widths[layer.width] for layer in layers if layer.width in widths), None)


def _is_alike(grid: tuple[int, ...], images: Tensor) -> bool:
    """Whether two dimensions have the images' ratio of height to width, to within one position."""
    if images.ndim != 4:
        return True
    height, width = images.shape[2:]
    return abs(grid[0] * width - grid[1] * height) < max(height, width)


def _layer(module: nn.Module) -> Layer | None:
    """Return what a layer says of its channels; None where it leaves them as they are, or has none."""
    match module:
        case nn.Linear():
            return Layer(module.out_features, False)
        case nn.LayerNorm() if len(module.normalized_shape) == 1:
            return Layer(module.normalized_shape[0], False)
        case nn.MultiheadAttention():
            return Layer(module.embed_dim, False)
        case _ConvNd():
            return Layer(module.out_channels, True)
        case _NormBase():
            return Layer(module.num_features, True)
        case nn.GroupNorm():
            return Layer(module.num_channels, True)
    return None
