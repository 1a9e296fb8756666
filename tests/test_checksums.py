"""Tests of checksums inside JSON: any change is noticed, and what others read is the same as before."""

import hashlib
import json
import warnings

import pytest

from svdistill import checksums
from svdistill.errors import SvdistillWarning

CONTENTS = [{"a": 1, "b": [0.1 + 0.2, None, '}, "checksum": "'], "ü": {"c": "\n"}}, {"a": {}}, {}]


def test_a_value_by_hand():
    """The first sixteen digits of the SHA-256 of what stands before the comma."""
    digits = hashlib.sha256(b'{"epoch": 1').hexdigest()[:16]
    assert checksums.seal('{"epoch": 1}') == f'{{"epoch": 1, "checksum": "{digits}"}}'
    digits = hashlib.sha256(b'{\n  "epoch": 1').hexdigest()[:16]
    assert checksums.seal('{\n  "epoch": 1\n}') == f'{{\n  "epoch": 1,\n  "checksum": "{digits}"\n}}'
    assert checksums.seal("{}") == f'{{"checksum": "{hashlib.sha256(b"{").hexdigest()[:16]}"}}'


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_was_sealed_comes_back(content, indent):
    """Plain JSON with one member more, which reading takes out; white space at the end is nobody's business."""
    text = checksums.seal(json.dumps(content, indent=indent))
    found = json.loads(text)
    assert list(found) == [*content, "checksum"]
    assert checksums.unseal(text, found)
    assert found == content
    assert checksums.unseal(text + " \n", json.loads(text))
    assert text.count("\n") == json.dumps(content, indent=indent).count("\n") + (indent == 2 and bool(content))


@pytest.mark.parametrize("content", CONTENTS[:2])
def test_any_other_character_is_noticed(content):
    """As long as it is JSON and has a checksum at all."""
    text = checksums.seal(json.dumps(content, ensure_ascii=False))
    tried = 0
    for position in range(len(text)):
        for other in "0 x":
            changed = text[:position] + other + text[position + 1 :]
            try:
                found = json.loads(changed)
            except ValueError:
                continue
            if changed == text or checksums.KEY not in found or found == {**json.loads(text)}:
                continue
            tried += 1
            with pytest.raises(ValueError, match="does not agree with its checksum"):
                checksums.unseal(changed, found)
    assert tried > 20


@pytest.mark.parametrize("seal", ['"0"', '""', "1", "null", '["checksum"]'])
def test_a_checksum_of_another_kind(seal):
    """It is not one."""
    text = f'{{"a": 1, "checksum": {seal}}}'
    with pytest.raises(ValueError, match="does not agree"):
        checksums.unseal(text, json.loads(text))


def test_more_after_the_checksum_is_noticed():
    """It is the last member, whatever else somebody adds."""
    text = checksums.seal('{"a": 1}')[:-1] + ', "b": 2}'
    with pytest.raises(ValueError, match="does not agree"):
        checksums.unseal(text, json.loads(text))


def test_what_carries_none_is_told():
    """And left as it is."""
    content = {"a": 1}
    assert not checksums.unseal('{"a": 1}', content)
    assert content == {"a": 1}


def test_the_note_is_shown_once():
    """However many files are read."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            checksums.note_unsealed()
    assert [one.category for one in told] == [SvdistillWarning]
