"""What the shipped methods are called, in which order they are compared, and how a wrong file is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from svdistill import methods, recipes
from svdistill.errors import RecipeError
from svdistill.recipes.losses import LOSSES


def test_the_standard_comparison() -> None:
    """The student alone first, our own method last; those of the literature have labels, and no two share an order."""
    published = ("alone", "soft-target", "fitnet", "attention", "relational", "fsp", "svd")
    assert methods.compared() == (*published, "svd-recommended")
    shipped = methods.shipped()
    orders = [shipped[name].order for name in methods.compared()]
    assert len(set(orders)) == len(orders)
    assert all(shipped[name].label for name in published)
    assert recipes.compared_methods() == methods.compared()


def test_every_loss_has_a_method_of_its_name() -> None:
    """With a label, by which figures and tables call it and its variants."""
    assert set(LOSSES) <= set(methods.shipped())
    assert all(methods.shipped()[name].label for name in LOSSES)


def test_losses_are_those_of_the_files() -> None:
    """A name, settings or a list of either; none for a student by itself."""
    shipped = methods.shipped()
    assert shipped[methods.BASELINE].losses == ()
    assert shipped["relational"].losses == ("relational",)
    assert shipped[methods.OWN].losses == ("svd",)
    assert shipped["fitnet"].losses == ("fitnet", "soft-target")
    assert shipped["svd-soft-target"].losses == ("svd", "soft-target")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alone", False),
        ("svd-k2-two-stage", False),
        ("fitnet+soft-target-two-stage", False),
        ("svd+soft-target", True),
        ("svd-k2+soft-target-two-stage", True),
    ],
)
def test_sums(name: str, expected: bool) -> None:
    """Losses that a method with a label consists of, as FitNets of a hint and soft targets, are no sum."""
    assert methods.is_sum(name) is expected


def test_labels_and_order_are_not_settings() -> None:
    """A recipe that a method is laid over does not get them, nor one that extends it."""
    plain = recipes.files.read("methods/svd")
    assert plain["description"] == methods.shipped()["svd"].description
    assert not set(methods.KEYS) & set(plain)


def test_nothing_heavy_is_imported() -> None:
    """The command line shows the methods before it knows what is asked of it."""
    program = (
        "import json, sys; from svdistill import methods; methods.compared(); "
        "print(json.dumps(sorted({'torch', 'pydantic'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("text", ["label: Mine\n", "description: x\nlabel: 3\n", "description: x\norder: first\n"])
def test_a_wrong_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Is named in one line."""
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    with pytest.raises(RecipeError, match=r"mine\.yaml: expected a description, and"):
        methods.shipped.__wrapped__()
