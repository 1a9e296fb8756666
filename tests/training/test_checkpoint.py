"""Tests of checkpoints: whole, safe to read, and only for the model that they are of."""

import hashlib
import pickle
import warnings
import zipfile

import pytest
import torch
from tests.trees import equal
from torch import nn

from svdistill.errors import CheckpointError, SvdistillWarning
from svdistill.training import checkpoint


@pytest.fixture
def path(tmp_path):
    """Where a checkpoint goes; its folder is not there yet."""
    return tmp_path / "checkpoints" / "last.pt"


def model(width=3, norm=True):
    """A network with parameters and, with norm, buffers."""
    return nn.Sequential(nn.Linear(2, width), *([nn.BatchNorm1d(width)] if norm else []))


def test_what_was_saved_comes_back(path):
    """Weights and everything else, on the CPU, without a temporary file beside it."""
    net = model()
    checkpoint.save(path, {"epoch": 3, "list": [1.5, "a", None], "tensor": torch.arange(3)}, model=net)
    state = checkpoint.load(path, model=model())
    assert state["epoch"] == 3
    assert state["list"] == [1.5, "a", None]
    assert torch.equal(state["tensor"], torch.arange(3))
    assert all(torch.equal(state["model"][name], value) for name, value in net.state_dict().items())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (model(width=4), r"'0.weight' is \(3, 2\) torch.float32 there and \(4, 2\) torch.float32 here"),
        (model(norm=False), r"it has '1.weight' \(3,\) torch.float32, which this one has not"),
        (nn.Sequential(*model(), nn.Linear(3, 3)), r"it lacks '2.weight' \(3, 3\)"),
        (model().double(), r"torch.float32 there and \(3, 2\) torch.float64 here"),
    ],
)
def test_another_model_is_named(path, other, message):
    """Where they differ first, and what to do."""
    checkpoint.save(path, {}, model=model())
    with pytest.raises(CheckpointError, match=f"is of another model: .*{message}.*train afresh"):
        checkpoint.load(path, model=other)


def test_a_checkpoint_that_lacks_a_part(path):
    """It is refused before anything of it is taken over."""
    checkpoint.save(path, {"epoch": 3}, model=model())
    for kinds, message in (
        ({"epoch": int, "health": dict}, "lacks 'health'"),
        ({"epoch": str}, "its 'epoch' is a int"),
    ):
        with pytest.raises(CheckpointError, match=f"not a checkpoint of this version of svdistill .*{message}"):
            checkpoint.load(path, model=model(), kinds=kinds)


def test_another_format(path):
    """Whatever else is in it."""
    checkpoint.save(path, {}, model=model())
    torch.save({**torch.load(path, weights_only=True), "format": 99}, path)
    with pytest.raises(
        CheckpointError, match=r"not a checkpoint of this version of svdistill \(its format is another\)"
    ):
        checkpoint.load(path, model=model())


def test_weights_of_another_kind(path):
    """What is loaded is looked at, not what the file says of it."""
    checkpoint.save(path, {}, model=model())
    content = torch.load(path, weights_only=True)
    for wrong, message in ((torch.zeros(3, 3), r"'0.weight' is \(3, 3\)"), ("x", "'0.weight' is a str there")):
        torch.save({**content, "model": {**content["model"], "0.weight": wrong}}, path)
        with pytest.raises(CheckpointError, match=f"of another model: {message}"):
            checkpoint.load(path, model=model())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint, and what it says."""
    path = tmp_path_factory.mktemp("written") / "c.pt"
    checkpoint.save(path, {"epoch": 3, "tensor": torch.arange(300.0)}, model=model())
    return path.read_bytes(), checkpoint.load(path, model=model())


def test_a_flipped_bit_is_noticed(tmp_path, written):
    """Wherever it is, in what the archive says of its parts too: of one that is called a folder torch reads nothing."""
    path, (whole, wanted) = tmp_path / "c.pt", written
    path.write_bytes(whole)
    assert checkpoint.is_whole(path)
    for position in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings():  # where the length of the comment is damaged, it is taken for one of old
            warnings.simplefilter("ignore", SvdistillWarning)
            assert not checkpoint.is_whole(path) or equal(checkpoint.load(path, model=model()), wanted)
    for cut in (0, 1, 60, 66, 70, len(whole) // 2, len(whole) - 67):
        path.write_bytes(whole[:cut])
        assert not checkpoint.is_whole(path)


def test_it_is_what_torch_writes(tmp_path, written):
    """And another program reads it without us."""
    path, (whole, wanted) = tmp_path / "c.pt", written
    path.write_bytes(whole)
    assert equal(torch.load(path, weights_only=True), wanted)
    assert equal(torch.load(path, weights_only=True, mmap=True), wanted)
    with zipfile.ZipFile(path) as file:
        assert file.comment.decode() == hashlib.sha256(whole[: -2 - 64]).hexdigest()


def test_one_of_an_earlier_version(tmp_path, written):
    """It is read with a note, and its parts are compared with torch's own checksums."""
    path, (_, wanted) = tmp_path / "c.pt", written
    torch.save(wanted, path)
    with pytest.warns(SvdistillWarning, match="carry no checksums"):
        assert equal(checkpoint.load(path, model=model()), wanted)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(torch.arange(300.0).numpy().tobytes(), torch.arange(1, 301.0).numpy().tobytes()))
    assert path.stat().st_size == len(whole)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path, model=model())
    path.write_bytes(whole[: len(whole) // 2])
    assert not checkpoint.is_whole(path)


def test_the_one_before_it_is_kept(path):
    """Under the name that is asked for."""
    for epoch in (1, 2, 3):
        checkpoint.save(path, {"epoch": epoch}, model=model(), keep=path.with_name("previous.pt"))
    assert checkpoint.load(path, model=model())["epoch"] == 3
    assert checkpoint.load(path.with_name("previous.pt"), model=model())["epoch"] == 2


# Torch's own reader takes minutes, or all memory, to say what is wrong with these: a name of 100,000 letters, a list of
# two lists of two lists … in place of a function.
_LAUGHS = b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(40))
SLOW = [b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.", b"\x80\x02]q\x00" + _LAUGHS + b")R."]
STRANGE = [
    *SLOW,
    b"\x80\x02.",
    b"\x80\x02K\x01K\x02.",
    b"\x80\x02]q\x00Rq\x01.",
    b"\x80\x02)a.",
    b"\x80\x02}q\x00h\x05.",
    b"",
]


@pytest.mark.parametrize("code", STRANGE)
def test_a_strange_pickle(path, code):
    """One that makes the reader itself fail, in an archive whose checksums are right."""
    checkpoint.save(path, {}, model=model())
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, code if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path, model=model())


@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_of_another_form(path, packed):
    """Torch packs nothing and has no name twice, so neither is believed."""
    checkpoint.save(path, {}, model=model())
    with zipfile.ZipFile(path) as file:
        parts = [(name, file.read(name)) for name in file.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else 0) as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in parts if packed else [*parts, *parts]:
            file.writestr(name, content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path, model=model())


def test_no_memory_is_no_damage(path, monkeypatch):
    """It has another name, and other advice."""
    checkpoint.save(path, {}, model=model())

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        checkpoint.load(path, model=model())


def test_a_missing_file(path):
    """It has its own words."""
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(path, model=model())


@pytest.mark.parametrize("length", [0, 10, 0.5, 0.99])
def test_a_truncated_file(path, length):
    """However much of it is left."""
    checkpoint.save(path, {"tensor": torch.zeros(1000)}, model=model())
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if length < 1 else length])
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint"):
        checkpoint.load(path, model=model())


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        """Raise what a test would notice."""
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


@pytest.mark.parametrize("content", [b"not a checkpoint", pickle.dumps(Evil(), protocol=2), b"\x80\x02}q\x00."])
def test_a_foreign_file_is_refused_and_runs_nothing(path, content):
    """Text, a pickle with code in it, an empty pickle."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path, model=model())


def test_code_inside_a_torch_file_does_not_run(path):
    """torch.save of an object is read as damaged."""
    path.parent.mkdir()
    torch.save({"format": 1, "evil": Evil()}, path)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(path, model=model())


@pytest.mark.parametrize("content", [{"format": 99}, [1, 2], {"weights": torch.zeros(2)}])
def test_a_torch_file_of_another_kind(path, content):
    """Somebody's weights are no checkpoint."""
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.load(path, model=model())


def test_a_failed_write_leaves_the_old_one(path, monkeypatch):
    """A full disk costs the new checkpoint, not the old one."""
    checkpoint.save(path, {"epoch": 1}, model=model())

    def full(content, file):
        file.write(b"half a check")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; .*; the one before it is untouched"):
        checkpoint.save(path, {"epoch": 2}, model=model())
    assert checkpoint.load(path, model=model())["epoch"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_named(path):
    """The reason is what the file said, not what torch makes of it; without an older one nothing is said of it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in (False, True):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            with pytest.raises(CheckpointError, match=r"last\.pt: File too large; make room there") as caught:
                checkpoint.save(path, {}, model=model(width=10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert ("the one before it is untouched" in str(caught.value)) == there
        checkpoint.save(path, {}, model=model())


def test_random_numbers_continue_where_they_were():
    """Torch's global generator."""
    torch.manual_seed(3)
    state = checkpoint.random_state()
    first = torch.rand(4)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(4), first)
