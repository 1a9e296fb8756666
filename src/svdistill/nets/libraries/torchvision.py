"""Networks of torchvision."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from svdistill.errors import OptionError, nearest
from svdistill.nets.fit import fit
from svdistill.nets.libraries.protocol import (
    Configuration,
    Library,
    Wanted,
    cannot_make,
    library,
    no_weights,
    refuse_arguments,
)

# Those whose output in train mode is not a tensor unless they are told to leave out their auxiliary classifiers.
_WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}
_REFUSED = frozenset(("name", "num_classes", "weights", "weights_backbone", "progress", "aux_logits"))


class Torchvision(Library):
    """Networks of torchvision that classify."""

    def check(self, name: str) -> None:
        """Make sure that torchvision has a network of this name."""
        models = library("torchvision.models")
        # Of torchvision's own kinds of networks only those that classify lie directly in this module.
        known = models.list_models(module=models)
        if name not in known:
            raise OptionError(f"torchvision has no network {name!r}{nearest(name, known)}")

    def create(self, wanted: Wanted) -> nn.Module:
        """Make a network; with ``pretrained`` a classifier of another number of classes is a fresh one."""
        self.check(wanted.name)
        refuse_arguments(wanted.arguments, _REFUSED)
        if wanted.in_channels != 3:
            raise OptionError(
                f"in_channels is {wanted.in_channels}, but networks of torchvision take 3; use images of 3 channels, "
                "or a network of timm, e.g. 'timm:resnet18'"
            )
        own = self.configuration(wanted).num_classes if wanted.pretrained else 1
        classes = wanted.num_classes or own or 1
        network = _made(wanted.name, {**wanted.arguments, "num_classes": classes})
        if wanted.pretrained:
            fit(network, self._weights(wanted), what=f"torchvision's {wanted.name!r}", num_classes=classes)
        return _without_classifier(network, wanted.name) if wanted.num_classes == 0 else network

    def configuration(self, wanted: Wanted) -> Configuration:
        """Return what torchvision says of its best weights, and of the image size that the arguments ask for."""
        self.check(wanted.name)
        told = library("torchvision.models").get_model_weights(wanted.name).DEFAULT
        prepared = told.transforms()
        size = int(wanted.arguments.get("image_size", prepared.crop_size[0]))
        mean, std = tuple(map(float, prepared.mean)), tuple(map(float, prepared.std))
        return Configuration(len(told.meta["categories"]), (size, size), mean, std)

    def _weights(self, wanted: Wanted) -> dict[str, Any]:
        told = library("torchvision.models").get_model_weights(wanted.name).DEFAULT
        try:
            state: dict[str, Any] = told.get_state_dict(progress=False, check_hash=True)
        except MemoryError:
            raise
        except Exception as error:  # whatever a download raises over its connection
            raise no_weights(f"torchvision's {wanted.name!r}", error) from error
        # Auxiliary classifiers, which the network is made without.
        return {key: value for key, value in state.items() if not key.lower().startswith("aux")}


def _made(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    models, without = library("torchvision.models"), _WITHOUT_AUXILIARY.get(name, {})
    try:
        network: nn.Module = models.get_model(name, weights=None, **without, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        given = {key: value for key, value in arguments.items() if key != "num_classes"}
        with torch.device("meta"):
            made = type(models.get_model(name, weights=None, **without))
        known = [key for key in inspect.signature(made).parameters if key not in _REFUSED]
        raise cannot_make(f"torchvision's {name!r}", given, error, known) from error
    return network


def _without_classifier(network: nn.Module, name: str) -> nn.Module:
    """Let a network return what its last layer would read."""
    last = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last:
        raise OptionError(f"torchvision's {name!r} has no last linear layer to leave out; take another network")
    owner, _, leaf = last[0].rpartition(".")
    network.get_submodule(owner).register_module(leaf, nn.Identity())
    return network
