"""Plain settings: lists of what a recipe extends, sums of losses laid over each other, paths."""

from pathlib import Path
from typing import Any

import pytest

from svdistill import recipes
from svdistill.errors import RecipeError
from svdistill.recipes import files


def write(folder: Path, **texts: str) -> None:
    """Write recipe files by name."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_of_several_that_are_extended_the_later_goes_before(tmp_path: Path) -> None:
    """And the recipe's own settings before all; each setting by itself."""
    write(
        tmp_path,
        first="seed: 1\ntrain: {epochs: 10, batch_size: 8}\ndata: {name: digits, image_size: 16}\n",
        second="seed: 2\ntrain: {epochs: 20}\n",
        both="extends: [first.yaml, second.yaml]\ndata: {image_size: 12}\n",
        other="extends: [second.yaml, first.yaml]\n",
    )
    assert files.read(str(tmp_path / "both.yaml")) == {
        "name": "both",
        "seed": 2,
        "train": {"epochs": 20, "batch_size": 8},
        "data": {"name": "digits", "image_size": 12},
    }
    assert files.read(str(tmp_path / "other.yaml"))["train"] == {"epochs": 10, "batch_size": 8}


def test_what_is_extended_extends_too(tmp_path: Path) -> None:
    """Depth first: all of the first one's line lies below the second one's; a common ancestor is no circle."""
    write(
        tmp_path,
        root="seed: 1\ndata: {name: digits}\n",
        left="extends: root.yaml\nseed: 2\n",
        right="extends: root.yaml\ntrain: {epochs: 3}\n",
        top="extends: [left.yaml, right.yaml]\n",
    )
    assert files.read(str(tmp_path / "top.yaml"))["seed"] == 1
    assert files.read(str(tmp_path / "top.yaml"))["train"] == {"epochs": 3}


def test_name_and_description_are_not_handed_on(tmp_path: Path) -> None:
    """They tell of one recipe."""
    write(tmp_path, a="name: mine\ndescription: of a\nseed: 1\n", b="extends: [a.yaml, methods/svd]\n")
    assert files.read(str(tmp_path / "a.yaml"))["name"] == "mine"
    plain = files.read(str(tmp_path / "b.yaml"))
    assert plain["name"] == "b"
    assert "description" not in plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [methods/fps]", "no method 'fps'; did you mean 'fsp'"),
        ("extends: [digits/sdv]", "no recipe 'digits/sdv'; did you mean 'digits/svd'"),
        ("extends: [other.yaml]", "in a circle"),
        ("extends: [[a]]", "expected a recipe's name or path, or a list of them"),
        ("extends: {a: 1}", "expected a recipe's name or path, or a list of them"),
    ],
)
def test_wrong_extends(tmp_path: Path, text: str, message: str) -> None:
    """One line, also for a circle over a list."""
    write(tmp_path, me=text, other="extends: [digits/student, me.yaml]\n")
    with pytest.raises(RecipeError, match=message) as caught:
        files.read(str(tmp_path / "me.yaml"))
    assert "\n" not in str(caught.value)


SVD = {"name": "svd", "rank": 2}
SOFT = {"name": "soft-target", "temperature": 3}
NAMED = "teacher.recipe=digits/teacher"


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        (SVD, None, None),
        (None, "fsp", {"name": "fsp"}),
        (SVD, "svd", SVD),  # its settings stay
        (SVD, "fsp", {"name": "fsp"}),
        (SVD, {"rank": 4}, {"name": "svd", "rank": 4}),
        (SVD, {"svd": {"rank": 4}}, {"name": "svd", "rank": 4}),
        (SVD, {"name": "svd", "beta": 1}, {**SVD, "beta": 1}),
        (SVD, {"name": "fsp", "weight": 1}, {"name": "fsp", "weight": 1}),
        (SVD, ["svd", "fsp"], [SVD, {"name": "fsp"}]),
        (SVD, [{"name": "svd", "beta": 1}], [{**SVD, "beta": 1}]),
        ([SVD, SOFT], "soft-target", SOFT),
        ([SVD, SOFT], ["soft-target", "svd"], [SOFT, SVD]),
        ([SVD, SOFT], {"soft-target": {"weight": 1}}, [SVD, {**SOFT, "weight": 1}]),
        ([SVD, SOFT], {"svd": {"rank": 1}, "soft-target": {"weight": 1}}, [{**SVD, "rank": 1}, {**SOFT, "weight": 1}]),
        ([SVD, SOFT], {"name": "svd"}, SVD),
        ([SVD, SOFT], [], []),
        (["svd", "fsp"], {"fsp": {"weight": 2}}, [{"name": "svd"}, {"name": "fsp", "weight": 2}]),
        ("svd", {"weight": 2}, {"name": "svd", "weight": 2}),
        (None, {"weight": 2}, {"weight": 2}),
    ],
)
def test_losses_are_laid_over_each_other_by_name(below: Any, above: Any, expected: Any) -> None:
    """A loss of the same name keeps what is not said anew; another one starts afresh; a list says which there are."""
    assert files.merge({"loss": below}, {"loss": above}) == {"loss": expected}


@pytest.mark.parametrize("above", [{"weight": 1}, {"sdv": {"rank": 1}}, {"rank": {"svd": 1}}])
def test_a_setting_of_a_sum_says_which_loss(above: dict[str, Any]) -> None:
    """It could be either's."""
    with pytest.raises(RecipeError, match=r"^loss: a sum of svd, soft-target; say which, .* loss\.svd\.weight=1$"):
        files.merge({"loss": [SVD, SOFT]}, {"loss": above})


def test_settings_of_a_teacher_do_not_hang_on_their_order() -> None:
    """On a command line the teacher may be named after them; another one than a recipe's starts afresh."""
    one, other = (files.parse(given) for given in (["teacher.views=2", NAMED], [NAMED, "teacher.views=2"]))
    assert one == other == {"teacher": {"recipe": "digits/teacher", "views": 2}}
    assert files.merge({"teacher": {"recipe": "digits/svd", "live": True}}, one) == one


def test_merging_changes_neither() -> None:
    """The arguments are as they were."""
    below, above = {"loss": [dict(SVD), dict(SOFT)], "data": {"name": "a"}}, {"loss": {"svd": {"rank": 7}}}
    files.merge(below, above)
    files.overlay(below, above)
    assert below == {"loss": [SVD, SOFT], "data": {"name": "a"}}
    assert above == {"loss": {"svd": {"rank": 7}}}


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    """Lists of classes and folders of images without labels too; a list of names is no path."""
    write(
        tmp_path,
        a="data: {classes: names.txt, root: ., unlabelled: {name: image-folder, root: ../more}}\n",
        b="data: {classes: [cat, dog]}\n",
    )
    settings = files.read(str(tmp_path / "a.yaml"))["data"]
    assert settings["classes"] == str(tmp_path / "names.txt")
    assert settings["root"] == str(tmp_path)
    assert settings["unlabelled"]["root"] == str(tmp_path.parent / "more")
    assert files.read(str(tmp_path / "b.yaml"))["data"]["classes"] == ["cat", "dog"]


def test_a_recipe_of_parts(tmp_path: Path) -> None:
    """A student, a method, and a weight of its own for it."""
    text = "extends: [digits/student, methods/fsp-two-stage]\nteacher: {recipe: digits/teacher}\nloss: {weight: 7}\n"
    write(tmp_path, mine=text)
    recipe = recipes.load(tmp_path / "mine.yaml")
    assert recipe.method == "fsp-two-stage"
    assert [loss.weight for loss in recipe.loss] == [7.0]
    assert recipe.train.first_stage == 0.25


def test_one_that_extends_too_many(tmp_path: Path) -> None:
    """Files that extend each other twice over are counted, not read 2⁴⁰ times."""
    write(tmp_path, f0="seed: 1\n", **{f"f{n}": f"extends: [f{n - 1}.yaml, f{n - 1}.yaml]\n" for n in range(1, 41)})
    with pytest.raises(RecipeError, match=r"f40\.yaml extends more than 100 files; take some out"):
        files.read(str(tmp_path / "f40.yaml"))


@pytest.mark.parametrize(
    "value", ["!!int x", "!!float x", "!!bool x", "!!timestamp 2001-99-99", "1" * 5000, "${a}", "[" * 3000 + "]" * 3000]
)
def test_values_that_cannot_be_made(value: str, tmp_path: Path) -> None:
    """On the command line the key is named, in a file the file; in one short line."""
    write(tmp_path, me=f"extends: digits/svd\nseed: {value}\n")
    for name, overrides, start in (
        ("digits/svd", [f"seed={value}"], r"^seed: cannot read the value '"),
        (str(tmp_path / "me.yaml"), [], r"me\.yaml is not valid YAML: "),
    ):
        with pytest.raises(RecipeError, match=start) as caught:
            recipes.load(name, overrides)
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)


def test_plain_values(tmp_path: Path) -> None:
    """An exponent makes a number with or without a point; a date, and what begins with 0, is text; no key twice."""
    write(tmp_path, me="a: 1e-3\nb: 1.5\nc: 2001-01-01\nd: 08\ne: 12\nf: .5\ng: -1E+3\nh: on\n", twice="a: 1\na: 2\n")
    read = files.read(str(tmp_path / "me.yaml"))
    assert list(read.values())[:-1] == [0.001, 1.5, "2001-01-01", "08", 12, 0.5, -1000.0, True]
    with pytest.raises(RecipeError, match="the key 'a' stands there 2 times"):
        files.read(str(tmp_path / "twice.yaml"))


@pytest.mark.parametrize("text", ["loss=[[svd]]", "loss=[{name: [svd]}]", "loss=1", "loss={name: {a: 1}}"])
def test_names_of_losses(text: str) -> None:
    """What cannot be a loss's name is said so."""
    with pytest.raises(RecipeError, match=r"^loss: expected a loss's name or settings"):
        recipes.load("digits/svd", [text])
