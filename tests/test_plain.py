"""JSON and YAML within bounds: what is read, and what is refused before it is made."""

import time

import pytest

from svdistill.plain import MAX_DEPTH, MAX_JSON, MAX_SCALAR, MAX_YAML, parse_json, parse_yaml


def nested(depth: int) -> str:
    """Lists in lists."""
    return "[" * depth + "]" * depth


def test_values_of_json() -> None:
    """What a run writes comes back, brackets in texts and escapes included."""
    text = r'{"a": [1, -2.5e3, null, true, "[[\"\\", "\u00e9"], "b": {}}'
    assert parse_json(text) == {"a": [1, -2500.0, None, True, '[["\\', "é"], "b": {}}
    assert parse_json(text.encode()) == parse_json(text)
    assert parse_json('["' + "[" * 5000 + '"]') == ["[" * 5000]
    assert parse_json(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "Expecting value"),
        (nested(MAX_DEPTH + 1), "nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),
        ('{"a":' * 100_000, "nested more than 32 deep"),
        ("9" * 5000, "a number of 5000 digits"),
        ("[NaN]", "NaN is not a number of JSON"),
        ("[-Infinity]", "Infinity is not a number"),
        (r'"\ud800"', "surrogates not allowed"),
        (b'"\xff"', "can't decode"),
        (" " * (MAX_JSON + 1), "longer than 33,554,432 characters"),
    ],
    ids=["cut", "deep", "deeper", "mappings", "digits", "nan", "infinity", "surrogate", "bytes", "long"],
)
def test_refused_json(text: str | bytes, message: str) -> None:
    """Each is a ValueError with a reason, whatever the interpreter's limit of recursion."""
    with pytest.raises(ValueError, match=message):
        parse_json(text)


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 20))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 15))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "while parsing"),
        ("a: " + nested(3000), "nested more than 32 deep"),
        ("- " * 3000 + "a", "nested more than 32 deep"),
        (LAUGHS, "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        (CHAIN, "nested more than 32 deep"),
        ("a: &a [*a]", r"\*a stands inside what it stands for"),
        ("!!int x", "invalid literal"),
        ("!!float x", "could not convert"),
        ("!!bool x", "x"),
        ("!!timestamp 2001-99-99", "month must be"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("1" * 5000, "digits"),
        ("1:" * MAX_SCALAR + "1", "a value of 20,001 characters"),
        (" " * (MAX_YAML + 1), "longer than 262,144 characters"),
    ],
    ids=[
        *("cut", "deep", "lists", "laughs", "merges", "chain", "circle", "int", "float", "bool", "timestamp", "object"),
        *("digits", "sexagesimal", "long"),
    ],
)
def test_refused_yaml(text: str, message: str) -> None:
    """Each is a ValueError with a reason of one line, within a second of this process's time."""
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


def test_values_of_yaml() -> None:
    """Anchors within bounds are filled in."""
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}, e: 2}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1, "e": 2}}
