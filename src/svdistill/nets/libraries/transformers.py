"""Networks of transformers: image classifiers, and vision models without a classifier."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import nn

from svdistill.errors import OptionError, SvdistillWarning, nearest, one_line
from svdistill.nets.libraries.protocol import Configuration, Library, Wanted, cannot_make, library, no_weights

# Wrappers of other libraries' networks, which are named there.
_ELSEWHERE = frozenset(("timm_backbone", "timm_wrapper"))
# What a network may have that another one's weights lack: a classifier, and what it reads.
_ENDS = frozenset(("classifier", "cls_classifier", "distillation_classifier", "head", "pooler", "logits"))


class Transformers(Library):
    """Networks of transformers: by a type (``vit``), a name on the hub (``facebook/dinov2-small``) or a folder.

    Of a type a network has the type's default configuration, of a name or folder the one that lies there. Code that
    lies there is never run.
    """

    def check(self, name: str) -> None:
        """Make sure that there is such a type; what is on the hub is not asked for."""
        known = sorted({*_classifiers(), *_towers()} - _ELSEWHERE)
        if not _is_elsewhere(name) and name not in known:
            raise OptionError(
                f"transformers has no image model {name!r}{nearest(name, known)}; on the hub they are called OWNER/NAME"
            )

    def create(self, wanted: Wanted) -> nn.Module:
        """Make a network of 32-bit weights; with ``pretrained`` a classifier that its weights lack is a fresh one."""
        self.check(wanted.name)
        config = _config(wanted)
        auto = _auto_class(wanted, config)
        if wanted.pretrained:
            return _pretrained(auto, wanted, config)
        config.architectures = config.architectures or []  # of a type's several classifiers the first is taken
        try:
            network: nn.Module = auto.from_config(config)
        except MemoryError:
            raise
        except Exception as error:  # whatever a network raises over its configuration
            raise cannot_make(f"transformers' {wanted.name!r}", wanted.arguments, error) from error
        return network.float().train()

    def configuration(self, wanted: Wanted) -> Configuration:
        """Return what configuration and image processor of a name say; a type has no processor."""
        self.check(wanted.name)
        config = _config(wanted)
        classes = config.num_labels if _has_classifier(config) else 0
        told = _processor(wanted.name) if _is_elsewhere(wanted.name) else {}
        mean, std = (
            tuple(map(float, told[key])) if isinstance(told.get(key), list) else None
            for key in ("image_mean", "image_std")
        )
        return Configuration(classes, _size(config.to_dict(), told), mean, std)

    def portable(self, wanted: Wanted, network: nn.Module) -> tuple[str, Mapping[str, Any]]:
        """Return the type, and what of its configuration is not the default."""
        if not _is_elsewhere(wanted.name):
            return wanted.name, wanted.arguments
        told = _config(wanted).to_diff_dict()
        kind = str(told["model_type"])
        known = _own_settings(library("transformers").AutoConfig.for_model(kind))
        return kind, {key: told[key] for key in sorted(told.keys() & known)}


def _is_elsewhere(name: str) -> bool:
    """Whether a name is one on the hub, or a folder; a type has no slash."""
    return "/" in name or os.sep in name


def _classifiers() -> Mapping[str, Any]:
    found: Mapping[str, Any] = library(
        "transformers.models.auto.modeling_auto"
    ).MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return found


def _towers() -> set[str]:
    """Return the types of vision models, those that are one half of a larger model among them."""
    auto = library("transformers.models.auto.modeling_auto")
    halves = (kind for kind in auto.MODEL_MAPPING_NAMES if kind.endswith("vision_model"))
    return {*auto.MODEL_FOR_IMAGE_MAPPING_NAMES, *halves}


def _config(wanted: Wanted) -> Any:
    """Return the configuration of a network with all that is asked for."""
    config = _made_config(wanted.name, {})
    known = _own_settings(_half(config, wanted))
    for key in wanted.arguments:
        if key not in known:
            raise OptionError(
                f"arguments.{key}: unknown to {_half(config, wanted).model_type!r} of transformers{nearest(key, known)}"
            )
    told = dict(wanted.arguments)
    if "num_channels" in _half(config, wanted).to_dict():
        told["num_channels"] = wanted.in_channels
    if _half(config, wanted) is not config:
        config = type(config.vision_config).from_dict({**config.vision_config.to_dict(), **told})
    else:  # made anew, since some settings follow from others
        config = _made_config(wanted.name, told)
    if wanted.num_classes:
        config.num_labels = wanted.num_classes
    return config


def _half(config: Any, wanted: Wanted) -> Any:
    """Return what of a configuration is for images, where it is of a model for images and texts."""
    whole = _has_classifier(config) or wanted.num_classes or "vision_config" not in config.sub_configs
    return config if whole else config.vision_config


def _made_config(name: str, told: Mapping[str, Any]) -> Any:
    auto = library("transformers").AutoConfig
    if not _is_elsewhere(name):
        try:
            return auto.for_model(name, **told)
        except Exception as error:  # whatever a configuration raises over its values
            raise cannot_make(f"transformers' {name!r}", told, error) from error
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **told)
    except Exception as error:  # whatever a download raises over its connection, and what came over its values
        raise OptionError(
            f"the configuration of {name!r} cannot be had ({one_line(error)}); look at the name and the connection, or "
            "take a folder that holds its config.json"
        ) from error


def _own_settings(config: Any) -> list[str]:
    """Return what a type of network can be told, in order, without what all have: where files lie, how it runs."""
    general = library("transformers").PretrainedConfig().to_dict()
    return [key for key in config.to_dict() if key not in general and key not in ("num_channels", "model_type")]


def _has_classifier(config: Any) -> bool:
    """Whether the configuration is of a network that was made to classify images."""
    return any(name.endswith("ForImageClassification") for name in config.architectures or ())


def _auto_class(wanted: Wanted, config: Any) -> Any:
    """Return the class that makes a classifier, or a network without one."""
    transformers = library("transformers")
    classifies = _has_classifier(config) if wanted.num_classes is None else wanted.num_classes > 0
    if not classifies:
        return transformers.AutoModel
    if config.model_type not in _classifiers():
        raise OptionError(
            f"transformers has no image classifier of {wanted.name!r}, only its features; as a teacher give it "
            "arguments: {num_classes: 0}, as a student take another network"
        )
    return transformers.AutoModelForImageClassification


def _pretrained(auto: Any, wanted: Wanted, config: Any) -> nn.Module:
    who = f"transformers' {wanted.name!r}"
    if not _is_elsewhere(wanted.name):
        raise OptionError(
            f"{who} names a type, which has no weights; name a model on the hub (OWNER/NAME) or a folder, or give a "
            "file by 'checkpoint'"
        )
    try:
        with _without_its_report():
            network, told = auto.from_pretrained(
                wanted.name,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except MemoryError:
        raise
    except Exception as error:  # whatever a download raises over its connection, and a network over its weights
        raise no_weights(who, error) from error
    absent = sorted({*told["missing_keys"], *(one[0] for one in told["mismatched_keys"])})
    if wrong := [key for key in absent if not _ENDS & {*key.split(".")}]:
        raise OptionError(
            f"the pretrained weights of {who} do not fit it: {len(wrong)} are missing or of another shape, "
            f"{wrong[0]!r} first; change model.arguments"
        )
    if absent:
        warn(
            f"the pretrained weights of {who} have none for {', '.join(absent)}, which begin afresh",
            SvdistillWarning,
            stacklevel=2,
        )
    made: nn.Module = network
    return made.train()


@contextmanager
def _without_its_report() -> Iterator[None]:
    """Keep transformers from printing a table of what does not fit, which is told in one line."""
    logging = library("transformers.utils.logging")
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _processor(name: str) -> dict[str, Any]:
    """Return what the image processor of a name is told; {} where there is none."""
    try:
        path = library("transformers.utils").cached_file(name, "preprocessor_config.json")
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # none there, out of reach, or not JSON
        return {}
    return told if isinstance(told, dict) else {}


def _size(config: Mapping[str, Any], processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width: those that a network was made for, else those that its images are brought to."""
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    for told in (config.get("image_size"), crop, processor.get("size")):
        match told:
            case int():
                return told, told
            case [int(height), int(width)]:
                return height, width
            case {"height": int(height), "width": int(width)}:
                return height, width
            case {"shortest_edge": int(edge)}:
                return edge, edge
    return None
