"""Messages: one line, however long, and whatever is in them."""

import pickle

import pytest

from svdistill.errors import DataError, SvdistillWarning, first_cause


@pytest.mark.parametrize("kind", [DataError, SvdistillWarning])
def test_a_long_message_keeps_its_beginning_and_its_end(kind: type[Exception]) -> None:
    """What a library says of a damaged file may be the file; what is damaged and what to do stay."""
    error = kind(f"/data/a.zip is damaged ({'x' * 10_000}\n\x1b[2J); get it again")
    for one in (error, pickle.loads(pickle.dumps(error))):
        text = str(one)
        assert text.startswith("/data/a.zip is damaged (xxx")
        assert text.endswith("); get it again")
        assert len(text) < 1600
        assert text.isprintable()


def test_others_stay_as_they_are() -> None:
    """To the letter, up to a length that fills a screen."""
    text = "a" * 1500
    assert str(DataError(text)) == text


def test_the_first_cause() -> None:
    """Its first line: what a compiler adds to it fills pages."""
    error = RuntimeError("step 2 failed")
    error.__cause__ = ValueError("Cannot view a tensor!\n\nWhile executing %view_27\n")
    assert first_cause(error) == "Cannot view a tensor"
    assert first_cause(KeyError()) == "KeyError"
