"""What an index gets: a complete sdist, a complete wheel, and a page whose links lead somewhere."""

import importlib.util
import re
import subprocess
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from svdistill import __version__

api = pytest.importorskip("hatchling.build", reason="builds with hatchling, which `make install` brings")
ROOT = Path(__file__).parent.parent
NAME = f"svdistill-{__version__}"
LINK = re.compile(r"\]\(([^)]*)\)")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both, as `make dist` does, and return what is in the sdist, and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        sdist, wheel = api.build_sdist(str(folder)), api.build_wheel(str(folder))
    with tarfile.open(folder / sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    with zipfile.ZipFile(folder / wheel) as archive:
        return names, {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(built):
    """Return the metadata in the wheel."""
    return message_from_bytes(built[1][f"{NAME}.dist-info/METADATA"])


@pytest.fixture(scope="module")
def for_index():
    """Return the function that makes the page of a README."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.for_index


def test_wheel_is_complete(built):
    """It has every file of the package and nothing else: no bytecode, no test."""
    package = [path for path in (ROOT / "src/svdistill").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    found = {name for name in built[1] if not name.startswith(f"{NAME}.dist-info/")}
    assert found == {path.relative_to(ROOT / "src").as_posix() for path in package}
    assert "svdistill/py.typed" in found


def test_sdist_is_complete(built):
    """It has every file under version control; a copy of the sources without it is compared with the files here."""
    asked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tracked = set(asked.stdout.splitlines()) if (ROOT / ".git").exists() else set()
    least = {"Makefile", "LICENSE", "CITATION.cff", "constraints.txt", "hatch_build.py", "tests/test_packaging.py"}
    assert (tracked | least) - built[0] == set()


def test_page(metadata):
    """The page of the package has the README's words, and no link to a file that is not on the index."""
    page = metadata.get_payload()
    targets = LINK.findall(page)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert page.startswith("# svdistill\n")
    assert all(target.startswith(("https://", "#")) for target in targets), targets


def test_links_follow_the_repository(for_index):
    """With an address links lead to the files of the tag, pictures to their content; without one, words stay."""
    text = "[a](docs/a.md#b) [c](#c) [d](https://d) `x[0](y)`\n\n![e](e.png)\n\nend"
    assert for_index(text, "https://host/me/it/", "1.2") == (
        "[a](https://host/me/it/blob/v1.2/docs/a.md#b) [c](#c) [d](https://d) `x[0](y)`\n\n"
        "![e](https://host/me/it/raw/v1.2/e.png)\n\nend"
    )
    assert for_index(text, None, "1.2") == "a [c](#c) [d](https://d) `x[0](y)`\n\nend"


def test_every_extra_is_used(metadata):
    """An extra that installs what nothing in the project imports is a promise that nobody keeps."""
    using = [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), ROOT / "mkdocs.yml"]
    code = "\n".join(path.read_text("utf-8") for path in using)
    wanted = [line for line in metadata.get_all("Requires-Dist") if "extra ==" in line and "'dev'" not in line]
    packages = {re.match(r"[\w-]+", line)[0].removeprefix("mkdocs-").replace("-", "_") for line in wanted}
    assert packages >= {"timm", "ray", "onnx"}
    assert {name for name in packages if not re.search(rf"\b{name}\b", code)} == set()


def test_citation_is_of_this_version():
    """CITATION.cff has the version, and the paper among its references."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == __version__
    assert [one["year"] for one in cited["references"]] == [2018]


def test_workflows_call_make():
    """What runs elsewhere can be run here: each step of the workflows is an action or a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
        jobs = yaml.safe_load(file.read_text("utf-8"))["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert all(re.fullmatch(r"make ([a-z-]+)( \w+=\S.*)?", run)[1] in targets for run in runs), (file, runs)
