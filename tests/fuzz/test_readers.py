"""No damaged file gets anything out of its reader but a value or our own error; ``make fuzz`` tries a million."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import finding
from tests.fuzz.edits import KINDS, Edit, damaged
from tests.fuzz.readers import Reader, make

EDITS = st.lists(
    st.builds(
        Edit, st.sampled_from(KINDS), st.floats(0, 1), st.sampled_from([1, 2, 4, 64, 512, 4096]), st.integers(0, 65535)
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """All readers."""
    return make(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(edits=EDITS, draw=st.data())
def test_damaged_files(readers: dict[str, Reader], edits: list[Edit], draw: st.DataObject) -> None:
    """Each input is a sound file with a few edits, of a reader and a content that are drawn too."""
    reader = readers[draw.draw(st.sampled_from([name for name, one in readers.items() if one.share]), label="reader")]
    content = draw.draw(st.sampled_from(reader.contents))
    assert finding(reader, damaged(content, edits)) == ""


@pytest.mark.filterwarnings("ignore::svdistill.errors.SvdistillWarning")
def test_sound_files(readers: dict[str, Reader]) -> None:
    """What is damaged elsewhere is read as it is."""
    for reader in readers.values():
        for content in reader.contents:
            reader.read(content)
