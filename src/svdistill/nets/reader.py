"""A network as the losses see it: images in, logits and maps of one layout out."""

from collections.abc import Sequence

from torch import Tensor, nn

from svdistill.choices import Layout
from svdistill.errors import ShapeError
from svdistill.nets.compiling import is_compiled
from svdistill.nets.layouts import (
    Layers,
    Layouts,
    arranged,
    check_layouts,
    declared_layers,
    find_layout,
    last_layers,
)
from svdistill.nets.outputs import find_logits
from svdistill.nets.taps import TapMemory, Taps, check_drop_tokens, drop_first, tap_names


class Reader:
    """Runs a network and returns its logits and its maps, whatever it returns and however its maps are laid out.

    What the first pass shows is remembered: the layouts, and which outputs have to be copied because they are changed
    in place later. That pass should not be of a compiled network, which cannot be watched.

    Args:
        model: any module.
        names: its taps, as for `Taps`; () for the logits alone.
        drop_tokens: how many tokens at the front of the (B, N, D) maps are left out.
        layout: of the maps, one for all or one for each tap; None = see `find_layout`.
        output: which part of its output the logits are, see `find_logits`.
        who: whose taps these are, for messages.

    Raises:
        OptionError: the model has no submodule of a name, a layout is unknown, or drop_tokens is below 0.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str] = (),
        *,
        drop_tokens: int = 0,
        layout: Layouts = None,
        output: str | int | None = None,
        who: str = "network",
    ) -> None:
        self.names = tap_names(model, names) if names else ()
        self._drop_tokens = check_drop_tokens(drop_tokens)
        self._layout = layout
        self._layouts = list(check_layouts(layout, len(self.names)))
        self._output = output
        self._who = who
        self._memory = TapMemory()
        self._looked = False
        # These are never the logits, though a backbone gives as its output what its last tap gives.
        self.suggested = False

    def tap(self, model: nn.Module, names: Sequence[str], *, drop_tokens: int) -> None:
        """Take the taps that are suggested for a network of which none were named.

        Args:
            model: the network.
            names: its taps, as for `Taps`.
            drop_tokens: how many tokens are left out, unless that was said before.

        Raises:
            OptionError: as when the reader is made.
        """
        self.names = tap_names(model, names)
        self._drop_tokens = self._drop_tokens or check_drop_tokens(drop_tokens)
        self._layouts = list(check_layouts(self._layout, len(self.names)))
        self._memory, self._looked = TapMemory(), False
        self.suggested = True

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Run the network for its logits alone."""
        return find_logits(model(images), self._output, who=self._who)

    def run(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the network once; no hook is left behind.

        Args:
            model: the network, or one of the same submodules.
            images: (B, C, H, W).

        Returns:
            Logits (B, classes), and a map for each tap: (B, C, H, W), (B, N, D) or (B, D).

        Raises:
            ShapeError: a submodule did not run or did not give a tensor, a map's layout or the logits cannot be told.
        """
        if not self.names:
            return self.logits(model, images), []
        layers: dict[str, Layers] = {}
        if self._looked:
            output, maps = self._tapped(model, images)
        elif is_compiled(model):
            layers = declared_layers(model, self.names)
            output, maps = self._tapped(model, images)
        else:
            with last_layers(model, self.names) as layers:
                output, maps = self._tapped(model, images)
        for name, feature in zip(self.names, maps, strict=True):
            if len(feature) != len(images):
                raise ShapeError(
                    f"tap {name!r} of the {self._who} gives {tuple(feature.shape)} for {len(images)} images, whose "
                    "number must come first; of a transformer that takes positions first, set batch_first, or take "
                    "another tap"
                )
        if not self._looked:
            self._look(maps, images, layers)
        logits = find_logits(output, self._output, who=self._who)
        return logits, [self._arranged(*one) for one in zip(self.names, maps, self._layouts, strict=True)]

    def _tapped(self, model: nn.Module, images: Tensor) -> tuple[object, list[Tensor]]:
        with Taps(model, self.names, memory=self._memory) as taps:
            return model(images), taps.collect()

    def _look(self, maps: Sequence[Tensor], images: Tensor, layers: dict[str, Layers]) -> None:
        for tap, (name, feature) in enumerate(zip(self.names, maps, strict=True)):
            if self._layouts[tap] is not None:
                continue
            if feature.ndim == 3 and self._drop_tokens:  # whoever drops tokens has said that there are some
                self._layouts[tap] = "channels_last"
            else:
                self._layouts[tap] = find_layout(feature, images, layers.get(name, ()), name=name, who=self._who)
        self._looked = True

    def _arranged(self, name: str, feature: Tensor, layout: Layout | None) -> Tensor:
        return drop_first(arranged(feature, layout), self._drop_tokens, name=name)


def run_tapped(
    model: nn.Module, names: Sequence[str], images: Tensor, *, drop_tokens: int = 0, layout: Layouts = None
) -> tuple[Tensor, list[Tensor]]:
    """Run a model once and return its logits and its maps; see :class:`Reader`.

    Args:
        model: any module.
        names: its taps, as for `Taps`; () for the logits alone.
        images: (B, C, H, W).
        drop_tokens: as for `Reader`.
        layout: as for `Reader`.

    Raises:
        OptionError: see `Reader`.
        ShapeError: see `Reader.run`.
    """
    return Reader(model, names, drop_tokens=drop_tokens, layout=layout).run(model, images)
