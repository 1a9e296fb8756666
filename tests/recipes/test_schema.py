"""The bounds of a recipe's settings and the digest that names a run."""

import pytest

from svdistill import recipes
from svdistill.errors import RecipeError


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("optimizer.lr=0", r"^optimizer\.lr: expected more than 0, got 0$"),
        ("optimizer.lr=.nan", r"^optimizer\.lr: expected a finite number"),
        ("optimizer.momentum=1.0", r"^optimizer\.momentum: expected less than 1"),
        ("optimizer.weight_decay=-1", r"^optimizer\.weight_decay: expected at least 0"),
        ("train.epochs=0", r"^train\.epochs: expected at least 1, got 0$"),
        ("train.epochs=2.5", r"^train\.epochs: expected a whole number, got 2\.5$"),
        ("train.epochs=true", r"^train\.epochs: expected a whole number, got True$"),
        ("train.batch_size=0", r"^train\.batch_size: expected at least 1"),
        ("train.batch_size=101", r"^train\.batch_size: 101 is more than the 50 images of data\.train_size$"),
        ("train.milestones=[0.5,0.2]", r"^train\.milestones: must rise"),
        ("train.milestones=[600]", r"^train\.milestones: 600 is not below epochs, "),
        ("train.milestones=[a]", r"^train\.milestones: each is an epoch .* got 'a'$"),
        ("train.milestones=3", r"^train\.milestones: expected a list"),
        ("train.device=gpu", r"^train\.device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'$"),
        ("model.width=0", r"^model\.width: expected more than 0"),
        ("model.taps=[]", r"^model\.taps: expected at least 1 entries"),
        ("model=vgg", r"^model: expected settings of its own"),
        ("data.train_size=0", r"^data\.train_size: expected at least 1"),
        ("data.augment.shift=-1", r"^data\.augment\.shift: expected at least 0"),
        ("data.augment.flip=1", r"^data\.augment\.flip: expected true or false, got 1$"),
        ("loss.rank=0", r"^loss\.rank: expected at least 1"),
        ("loss.beta=0", r"^loss\.beta: expected more than 0"),
        ("loss.clip=globl", r"^loss\.clip: no 'globl'; expected 'per_variable' or 'global'"),
        ("loss.name=sdv", r"^loss\.name: no 'sdv'; expected 'svd' or 'soft-target' or 'fitnet' or 'fsp'"),
        ("seed=-1", r"^seed: expected at least 0"),
        ("seed=x", r"^seed: expected a whole number, got 'x'$"),
        ("loss=null", r"^teacher: a teacher without 'loss'"),
        ("teacher=null", r"^loss: a transfer loss without 'teacher'"),
        ("name=../x", r"^name: expected letters"),
    ],
)
def test_out_of_range(override: str, match: str) -> None:
    """Every wrong value is one line that begins with its dotted key."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load("digits/svd", [override])
    assert "\n" not in str(caught.value)


def test_teacher_has_one_source() -> None:
    """A teacher is a recipe or a checkpoint, neither both nor none."""
    plain = recipes.load("digits/svd").to_dict()
    plain["teacher"]["checkpoint"] = "a.safetensors"
    with pytest.raises(RecipeError, match=r"^teacher: give either 'recipe' or 'checkpoint'; both are given"):
        recipes.validate(plain)
    plain["teacher"] = {"taps": ["block1"]}
    with pytest.raises(RecipeError, match="neither is given"):
        recipes.validate(plain)
    plain["teacher"] = {"checkpoint": "a.safetensors", "overrides": {"seed": 1}}
    with pytest.raises(RecipeError, match="a checkpoint is taken as it is"):
        recipes.validate(plain)


@pytest.mark.parametrize(
    ("milestones", "epochs", "expected"),
    [
        ("[0.5,0.75]", 120, (60, 90)),
        ("[0.5,0.75]", 3, (2,)),
        ("[0.5]", 1, ()),
        ("[2,5]", 6, (2, 5)),
        ("[2,0.9]", 9, (2,)),
    ],
)
def test_milestone_epochs(milestones: str, epochs: int, expected: tuple[int, ...]) -> None:
    """Shares follow the number of epochs, rounded up; one that falls on the end is left out."""
    recipe = recipes.load("digits/teacher", [f"train.milestones={milestones}", f"train.epochs={epochs}"])
    assert recipe.train.milestone_epochs == expected


def test_round_trip() -> None:
    """The plain form of a recipe validates to the same recipe."""
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipes.validate(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    "override",
    ["seed=1", "train.device=cpu", "train.compile=true", "train.checkpoint_minutes=1", "data.root=/x", "name=mine"],
)
def test_digest_leaves_out(override: str) -> None:
    """The seed, names and what only says where and how fast do not change the digest."""
    assert recipes.load("digits/svd", [override]).digest() == recipes.load("digits/svd").digest()


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=0.5", "train.precision=bf16-mixed", "loss.rank=2", "data.augment.shift=2", "model.width=1.0"],
)
def test_digest_covers(override: str) -> None:
    """What changes the result changes the digest."""
    assert recipes.load("digits/svd", [override]).digest() != recipes.load("digits/svd").digest()


def test_digest_covers_the_teacher() -> None:
    """Another teacher is another experiment, even under the same name."""
    recipe = recipes.load("digits/svd")
    assert recipe.digest(teacher="0-a") != recipe.digest(teacher="0-b")
