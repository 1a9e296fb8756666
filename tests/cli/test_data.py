"""The command ``svdistill data``."""

from pathlib import Path

import pytest
from PIL import Image
from tests.data.pictures import tree

from svdistill.cli import app


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own, with an empty cache."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the program in this process; return its status and both outputs."""
    status = app.run(["data", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_list(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """Every data set is listed, and what can be done."""
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    for word in ("digits", "cifar100", "tiny-imagenet", "170 MB", "svdistill data fetch NAME"):
        assert word in out


def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A sheet is drawn, and its path printed."""
    status, out, err = call(capsys, "show", "digits")
    assert (status, out, err) == (0, "digits.png\n", "")
    assert Image.open(tmp_path / "digits.png").size[0] > 600
    root = tree(tmp_path / "photos")
    arguments = (
        "--root",
        str(root),
        "--image-size",
        "16",
        "--rows",
        "2",
        "data.augment.rotation=30",
        "-o",
        "deep/a.png",
    )
    assert call(capsys, "show", "image-folder", *arguments)[:2] == (0, "deep/a.png\n")
    assert (tmp_path / "deep" / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "digit"), "did you mean 'digits'"),
        (("show", "digits", "--each", "0"), "each is 0"),
        (("show", "digits", "data.augment.erasing=2"), "data.augment.erasing: expected settings of its own"),
        (("show", "digits", "--root", "somewhere"), "leave the folder out"),
        (("show", "image-folder"), "image-folder needs a folder"),
        (("show", "cifar10", "--root", "none"), "no data folder none; name one that holds cifar-10-binary.tar.gz"),
        (("show", "digits", "-o", "."), "cannot write the sheet"),
        (("fetch", "digits"), "nothing to fetch"),
        (("fetch", "cifar"), "did you mean 'cifar10'"),
    ],
)
def test_one_line_for_each_mistake(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """Status 2, one line, nothing written."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_fetch_offline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network, one line says what to put where."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    status, out, err = call(capsys, "fetch", "cifar100")
    assert (status, out) == (2, "")
    assert f"put cifar-100-binary.tar.gz in {tmp_path}/cache/svdistill/cifar100" in err
