"""Tests of finding the logits in what a network returns."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from svdistill.errors import ShapeError
from svdistill.nets.outputs import find_logits

LOGITS, FEATURES, MAP = torch.rand(4, 3), torch.rand(4, 16), torch.rand(4, 8, 5, 5)
WithAuxiliary = namedtuple("WithAuxiliary", ["logits", "aux_logits"])


@dataclass
class Answer:
    """As some libraries return it."""

    hidden_states: Any
    logits: Any


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (MAP, LOGITS),
        ([MAP, FEATURES], LOGITS),
        [LOGITS],
        {"out": LOGITS, "map": MAP},
        {"features": FEATURES, "logits": LOGITS},
        OrderedDict(logits=LOGITS, loss=FEATURES),
        WithAuxiliary(LOGITS, FEATURES),
        Answer((FEATURES, FEATURES), LOGITS),
    ],
)
def test_logits_are_found(output: Any) -> None:
    """By their name, or where nothing else has their shape."""
    assert find_logits(output) is LOGITS


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ((FEATURES, LOGITS), 1),
        ((FEATURES, LOGITS), -1),
        ({"a": FEATURES, "b": LOGITS}, "b"),
        (Answer(LOGITS, FEATURES), "hidden_states"),
        (LOGITS, "logits"),
    ],
)
def test_logits_that_are_named(output: Any, name: str | int) -> None:
    """By key, attribute or position; a tensor is the logits whatever their name in another mode."""
    assert find_logits(output, name) is LOGITS


@pytest.mark.parametrize(
    ("output", "name", "message"),
    [
        ((FEATURES, LOGITS), None, r"^the student gives a tuple \(0: \(4, 16\), 1: \(4, 3\)\), 2 of them .*output="),
        ((MAP,), None, "say which part the logits are"),
        (None, None, "the student gives a NoneType; say"),
        ({"labels": LOGITS.argmax(1)[:, None]}, None, "say which part"),
        (WithAuxiliary(None, LOGITS), None, "'logits' is a NoneType, expected a tensor"),
        ((FEATURES, LOGITS), 2, r"student_output is 2, but the student gives a tuple"),
        ({"logit": LOGITS, "map": MAP}, "logits", "student_output is 'logits', .*did you mean 'logit'"),
        (Answer(MAP, LOGITS), "x", "student_output is 'x', but the student gives a Answer"),
    ],
)
def test_logits_that_are_not_there(output: Any, name: str | int | None, message: str) -> None:
    """One line that says what came."""
    with pytest.raises(ShapeError, match=message) as caught:
        find_logits(output, name, who="student")
    assert "\n" not in str(caught.value)


def test_features_of_a_network_without_a_classifier() -> None:
    """Libraries call them the pooler's output, a vector or a map of one position."""
    pooled = torch.rand(4, 16)
    for one in (pooled, pooled[..., None, None]):
        assert torch.equal(find_logits({"last_hidden_state": MAP, "pooler_output": one}), pooled)
