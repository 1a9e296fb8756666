"""What a run's recipe and summary must be like for a page to be made of them, whoever has written them."""

from collections.abc import Mapping
from typing import Any

from svdistill.records import VALIDATION_ACCURACY
from svdistill.report.numbers import is_finite

_SECTIONS = ("data", "model", "teacher", "optimizer", "train")
_TEXTS = ("name", "description", "data.name", "model.name", "teacher.recipe", "teacher.checkpoint")
_FRACTIONS = ("accuracy", "best_accuracy")
_COUNTS = ("best_epoch", "train_images", "epochs", "seconds")
_COSTS = ("parameters", "flops")
_MOST = 1e18
_MOST_SEED = 2**32


def recipe_fault(recipe: Mapping[str, Any]) -> str:
    """Say in a few words what is wrong with a recipe; "" where nothing is."""
    fault = _value_fault(recipe)
    if fault:
        return fault
    for section in _SECTIONS:
        if not isinstance(recipe.get(section) or {}, Mapping):
            return f"{section} has no settings of its own"
    for key in _TEXTS:
        section, _, last = key.rpartition(".")
        owner = (recipe.get(section) or {}) if section else recipe
        if not isinstance(owner.get(last, ""), str | None):
            return f"{key} is not text"
    outside = (recipe.get("teacher") or {}).get("model") or {}
    if not isinstance(outside, Mapping) or not isinstance(outside.get("name", ""), str):
        return "teacher.model.name is not text"
    if not _is_seed(recipe.get("seed", 0)):
        return "seed is not a whole number from 0"
    losses = recipe.get("loss")
    for loss in losses if isinstance(losses, list) else [losses]:
        if isinstance(loss, Mapping) and (fault := _loss_fault(loss)):
            return fault
    return ""


def summary_fault(summary: Mapping[str, Any]) -> str:
    """Say in a few words what is wrong with a summary; "" where nothing is."""
    missing = [key for key in (*_FRACTIONS, *_COUNTS, *_COSTS) if not is_finite(summary.get(key))]
    if missing:
        return f"lacks {', '.join(missing)}"
    wrong = [key for key in _FRACTIONS if not 0 <= summary[key] <= 1]
    if VALIDATION_ACCURACY in summary and not is_finite(summary[VALIDATION_ACCURACY]):
        wrong.append(VALIDATION_ACCURACY)
    wrong += [key for key in _COUNTS if not 0 <= summary[key] <= _MOST]
    wrong += [key for key in _COSTS if not 0 < summary[key] <= _MOST]
    wrong += [key for key in ("method", "measured_on", "recipe") if not isinstance(summary.get(key, ""), str)]
    wrong += ["seed"] if not _is_seed(summary.get("seed", 0)) else []
    adapters = summary.get("adapters") or []
    if not isinstance(adapters, list) or not all(isinstance(one, list | dict) and one for one in adapters):
        wrong.append("adapters")
    return f"has no sensible {', '.join(wrong)}" if wrong else ""


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_SEED


def _loss_fault(loss: Mapping[str, Any]) -> str:
    if not isinstance(loss.get("name", ""), str) or not isinstance(loss.get("preset", ""), str | None):
        return "a loss's name or preset is not text"
    beta = loss.get("beta")
    if beta is not None and not (is_finite(beta) and beta > 0):
        return "a loss's beta is not a number above 0"
    rank = loss.get("rank")
    return "" if rank is None or (is_finite(rank) and rank >= 1) else "a loss's rank is not a number from 1"


def _value_fault(value: Any, name: str = "", *, nested: bool = False) -> str:
    """Say what is not plain: texts, numbers, booleans and null, in mappings by text, and in lists of one kind.

    What a network of one's own is made with may hold any lists: ``nested``.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and not _text_fault(key) for key in value):
            return f"{name or 'it'} has a key that is not text"
        faults = (_value_fault(item, key, nested=nested or key == "arguments") for key, item in value.items())
        return next(filter(None, faults), "")
    if isinstance(value, list):
        unlike = 0 < sum(isinstance(item, Mapping) for item in value) < len(value)
        if not nested and (unlike or any(isinstance(item, list) for item in value)):
            return f"{name} is a list of lists, or of unlike things"
        return next(filter(None, (_value_fault(item, name, nested=nested) for item in value)), "")
    if isinstance(value, str):
        return f"{name} holds {fault}" if (fault := _text_fault(value)) else ""
    return "" if value is None or isinstance(value, bool) or is_finite(value) else f"{name} is no plain value"


def _text_fault(text: str) -> str:
    if "\0" in text:
        return "a NUL character"
    return "" if text.isascii() or not any("\ud800" <= one <= "\udfff" for one in text) else "half a character"
