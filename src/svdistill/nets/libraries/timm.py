"""Networks of timm."""

import inspect

from torch import nn

from svdistill.errors import OptionError, nearest
from svdistill.nets.libraries.protocol import (
    Configuration,
    Library,
    Wanted,
    cannot_make,
    library,
    no_weights,
    refuse_arguments,
)

# What else `create_model` takes is for weights and the way it is compiled.
_REFUSED = frozenset(
    (
        *("model_name", "num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "pretrained_strict"),
    )
)


class Timm(Library):
    """Networks of timm, as it names them; a set of weights may follow after a dot."""

    def check(self, name: str) -> None:
        """Make sure that timm has a network of this name."""
        known = library("timm").list_models()
        # timm names a set of weights after a dot; the network is what stands before it.
        if name.partition(".")[0] not in known:
            raise OptionError(f"timm has no network {name!r}{nearest(name, known)}")

    def create(self, wanted: Wanted) -> nn.Module:
        """Make a network; with ``pretrained`` a classifier of another number of classes is a fresh one."""
        self.check(wanted.name)
        refuse_arguments(wanted.arguments, _REFUSED)
        timm = library("timm")
        classes = {} if wanted.num_classes is None else {"num_classes": wanted.num_classes}
        if wanted.pretrained and not self._has_weights(wanted.name):
            raise OptionError(f"timm has no pretrained weights for {wanted.name!r}; give a file by 'checkpoint'")
        try:
            network: nn.Module = timm.create_model(
                wanted.name, pretrained=wanted.pretrained, in_chans=wanted.in_channels, **classes, **wanted.arguments
            )
        except MemoryError:
            raise
        except Exception as error:  # whatever a network raises over arguments, and a download over its connection
            who = f"timm's {wanted.name!r}"
            if wanted.pretrained and not isinstance(error, TypeError | AssertionError):
                raise no_weights(who, error) from error
            raise cannot_make(who, wanted.arguments, error, self._known(wanted.name)) from error
        return network

    def configuration(self, wanted: Wanted) -> Configuration:
        """Return what timm says of the weights of a name, and of the image size that the arguments ask for."""
        self.check(wanted.name)
        told = library("timm").get_pretrained_cfg(wanted.name)
        if told is None:
            return Configuration()
        size = wanted.arguments.get("img_size", tuple(told.input_size)[1:])
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = tuple(map(float, told.mean)), tuple(map(float, told.std))
        if wanted.in_channels == 1 < len(mean):  # timm adds up what its first layer does with each colour
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        return Configuration(told.num_classes, (int(height), int(width)), mean, std)

    def _has_weights(self, name: str) -> bool:
        told = library("timm").get_pretrained_cfg(name)
        return told is not None and bool(told.has_weights)

    def _known(self, name: str) -> list[str]:
        """Return the arguments of a network's class, as far as a network without any can be made."""
        made = type(library("timm").create_model(name))
        return [key for key in inspect.signature(made).parameters if key not in _REFUSED]
