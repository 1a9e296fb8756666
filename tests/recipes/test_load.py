"""Recipes by name and path, overrides, inheritance, and the teacher's recipe."""

from pathlib import Path

import pytest
import yaml

from svdistill import recipes
from svdistill.errors import RecipeError


def test_names() -> None:
    """The first data sets have their four recipes each; methods are parts of recipes and not among them."""
    kinds = ("soft-target", "student", "svd", "teacher")
    assert {f"{data}/{kind}" for data in ("digits", "fashion-mnist") for kind in kinds} < set(recipes.names())
    assert list(recipes.names()) == sorted(recipes.names())
    assert not any(name.startswith("methods/") for name in recipes.names())


def test_shipped_recipes_are_valid() -> None:
    """Every shipped recipe loads, is named after its file and has a description of its own within its folder."""
    found = [recipes.load(name) for name in recipes.names()]
    assert tuple(recipe.name for recipe in found) == recipes.names()
    assert all((recipe.teacher is None) == (not recipe.loss) for recipe in found)
    described = [(recipe.name.rpartition("/")[0], recipe.description) for recipe in found]
    assert all(description for _, description in described)
    assert len(set(described)) == len(described)


def test_digits_are_never_flipped() -> None:
    """No shipped recipe mirrors digits."""
    assert not any(recipes.load(n).data.augment.flip for n in recipes.names() if n.startswith("digits/"))


def test_overrides() -> None:
    """Overrides are typed values, the later one wins, and null takes a part out."""
    recipe = recipes.load("digits/svd", ["seed=3", "data.train_size=1000", "seed=4", "optimizer.lr=1e-2"])
    assert (recipe.seed, recipe.data.train_size, recipe.optimizer.lr) == (4, 1000, 0.01)
    assert recipes.load("digits/svd", ["teacher=null", "loss=null"]).loss == ()


def test_another_loss_starts_afresh() -> None:
    """A loss of another name does not inherit settings that it does not know."""
    recipe = recipes.load("digits/svd", ["loss.name=soft-target", "loss.temperature=3"])
    (loss,) = recipe.loss
    assert loss.model_dump()["temperature"] == 3


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("train.epchs=4", r"^train\.epchs: unknown key; did you mean 'epochs'\?$"),
        ("epochs=4", r"^epochs: unknown key; did you mean 'train\.epochs'\?$"),
        ("loss.temperature=4", r"^loss\.temperature: unknown key for loss 'svd'"),
        ("seed", r"^'seed': expected key=value"),
        ("=3", r"^'=3': expected key=value"),
        ("train.milestones=[1", r"^train\.milestones: cannot read the value"),
        ("seed=${x}", r"^seed: cannot read the value"),
        ("extends=digits/teacher", r"^extends: belongs in a recipe's file"),
        ("optimizer.name=adamw", r"^optimizer\.lr: missing; give optimizer\.lr=VALUE$"),
    ],
)
def test_wrong_overrides(override: str, match: str) -> None:
    """A wrong override is one line that names the key and the nearest right one."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load("digits/svd", [override])
    assert "\n" not in str(caught.value)


def test_unknown_names() -> None:
    """An unknown recipe is answered by the nearest ones, a missing file by its path."""
    with pytest.raises(RecipeError, match=r"no recipe 'digits/sdv'; did you mean 'digits/svd'"):
        recipes.load("digits/sdv")
    with pytest.raises(RecipeError, match=r"no recipe file .*nowhere\.yaml; give a path"):
        recipes.load("nowhere.yaml")


def test_own_file_extends(tmp_path: Path) -> None:
    """A file extends a shipped recipe and another file beside it, and paths in it are relative to it."""
    (tmp_path / "middle.yaml").write_text("extends: digits/svd\nseed: 5\ndescription: of the middle\n")
    file = tmp_path / "my own.yaml"
    file.write_text(
        "extends: middle.yaml\nloss: {rank: 2}\ndata: {root: images}\nteacher: {checkpoint: t.safetensors}\n"
    )
    recipe = recipes.load(file)
    assert (recipe.name, recipe.seed, recipe.description) == ("my-own", 5, "")
    (loss,) = recipe.loss
    assert loss.model_dump()["rank"] == 2
    assert recipe.data.root == str(tmp_path / "images")
    assert recipe.teacher is not None
    assert recipe.teacher.checkpoint == str(tmp_path / "t.safetensors")
    assert recipe.teacher.recipe is None
    file.write_text("extends: digits/svd\nteacher: {overrides: {data: {root: images}}}\n")
    teacher = recipes.load(file).teacher
    assert teacher is not None
    assert teacher.overrides == {"data": {"root": str(tmp_path / "images")}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [1", "is not valid YAML"),
        ("just words", "is not a recipe"),
        ("[1, 2]", "is not a recipe"),
        ("", "is not a recipe"),
        ("extends: me.yaml", "in a circle"),
        ("extends: [1]", "extends: expected a recipe's name"),
        ("extends: digits/svd\nsed: 1", "^sed: unknown key; did you mean 'seed'"),
        ("extends: digits/svd\ntrain.epochs: 1", r"^train\.epochs: .* are nested; write train: \{epochs: …\}$"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, match: str) -> None:
    """A damaged recipe file is one line."""
    (tmp_path / "me.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load(tmp_path / "me.yaml")
    assert "\n" not in str(caught.value)


def test_binary_file(tmp_path: Path) -> None:
    """A file that is not text is refused."""
    (tmp_path / "me.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        recipes.load(tmp_path / "me.yaml")


def test_teacher_recipe() -> None:
    """A teacher keeps its seed, follows the student's machine, and takes its overrides."""
    overrides = ["seed=7", "train.device=cpu", "data.root=/somewhere", "teacher.overrides.model.width=0.5"]
    teacher = recipes.teacher_of(recipes.load("digits/svd", overrides))
    assert teacher is not None
    assert (teacher.name, teacher.seed, teacher.train.device, teacher.model.width) == ("digits/teacher", 0, "cpu", 0.5)
    assert teacher.data.root == "/somewhere"
    assert recipes.teacher_of(recipes.load("digits/student")) is None


def test_teacher_with_help_of_its_own() -> None:
    """A teacher that has a teacher itself: its loss, presets included, can be replaced."""
    overrides = ["teacher.recipe=digits/svd", "teacher.overrides.loss.preset=poster"]
    recipe = recipes.load("digits/soft-target", overrides)
    teacher = recipes.teacher_of(recipe)
    assert teacher is not None
    assert (teacher.method, teacher.loss[0].model_dump()["rank"], teacher.loss[0].clip) == ("svd-poster", 2, "poster")
    assert [member.name for member in recipes.lineage(recipe)] == ["digits/soft-target", "digits/svd", "digits/teacher"]
    alone = recipes.load("digits/svd", ["teacher.overrides.train.epochs=3", "teacher.overrides.optimizer.momentum=0.5"])
    teacher = recipes.teacher_of(alone)
    assert teacher is not None
    assert (teacher.train.epochs, teacher.train.batch_size, teacher.optimizer.lr) == (3, 50, 0.01)


def test_teacher_of_another_data_set_keeps_its_folder() -> None:
    """The student's data folder is not that of another data set."""
    teacher = recipes.teacher_of(recipes.load("digits/svd", ["data.root=/a", "teacher.recipe=fashion-mnist/teacher"]))
    assert teacher is not None
    assert teacher.data.root is None


def test_teacher_of_another_folder_keeps_its_folder(tmp_path: Path) -> None:
    """Of a folder of images the root says which images they are; without one, or with the same, it is the student's."""
    network = "model: {name: resnet8}\noptimizer: {name: sgd, lr: 0.1}\ntrain: {epochs: 1}\n"
    file = tmp_path / "teacher.yaml"
    student = tmp_path / "student.yaml"
    student.write_text(
        "data: {name: image-folder, root: mine, classes: [a, b], image_size: 8, held_out: 0.5}\n"
        f"teacher: {{recipe: teacher.yaml}}\nloss: svd\n{network}"
    )
    for root, classes, held_out in (
        (", root: theirs", None, None),
        (", root: mine", ("a", "b"), 0.5),
        ("", ("a", "b"), 0.5),
    ):
        file.write_text(f"data: {{name: image-folder, image_size: 8{root}}}\n{network}")
        teacher = recipes.teacher_of(recipes.load(student))
        assert teacher is not None
        expected = tmp_path / ("theirs" if "theirs" in root else "mine")
        assert (teacher.data.root, teacher.data.classes, teacher.data.held_out) == (str(expected), classes, held_out)


def test_a_link_to_the_students_folder_is_that_folder(tmp_path: Path) -> None:
    """A teacher must not train on what its student holds out because it has another path to it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    held_out = {"name": "image-folder", "root": str(tmp_path / "mine"), "image_size": 8, "held_out": 0.5}
    given = {"name": "image-folder", "root": str(tmp_path / "link"), "image_size": 8}
    student = recipes.load("digits/svd", {"data": held_out, "teacher": {"overrides": {"data": given}}})
    teacher = recipes.teacher_of(student)
    assert teacher is not None
    assert teacher.data.held_out == 0.5


def test_wrong_teacher() -> None:
    """Errors of the teacher's recipe name the key under which it was given."""
    with pytest.raises(
        RecipeError, match=r"^teacher\.recipe: no recipe 'digits/techer'; did you mean 'digits/teacher'"
    ):
        recipes.lineage(recipes.load("digits/svd", ["teacher.recipe=digits/techer"]))
    with pytest.raises(RecipeError, match=r"^teacher\.overrides\.model\.widht: unknown key; did you mean 'width'"):
        recipes.lineage(recipes.load("digits/svd", ["teacher.overrides.model.widht=2"]))
    with pytest.raises(RecipeError, match=r"write train: \{average: \{decay: …\}\}$"):
        recipes.lineage(recipes.load("digits/svd", {"teacher": {"overrides": {"train.average.decay": 0.9}}}))


def test_own_teacher(tmp_path: Path) -> None:
    """A recipe that is its own teacher is refused."""
    (tmp_path / "me.yaml").write_text("extends: digits/svd\nteacher: {recipe: me.yaml}\n")
    with pytest.raises(RecipeError, match="is its own teacher"):
        recipes.lineage(recipes.load(tmp_path / "me.yaml"))


def test_identity() -> None:
    """The folder's name holds the seed; students of all seeds share a digest; the teacher's settings count."""
    seeds = [recipes.identity(recipes.load("digits/svd", [f"seed={seed}"])) for seed in (0, 1)]
    assert [name.partition("-")[0] for name in seeds] == ["0", "1"]
    assert seeds[0].partition("-")[2] == seeds[1].partition("-")[2]
    other = recipes.identity(recipes.load("digits/svd", ["teacher.overrides.train.epochs=1"]))
    assert other != seeds[0]


def test_identity_of_a_checkpoint(tmp_path: Path) -> None:
    """A teacher's file counts by its content, and a missing one is named."""
    file = tmp_path / "t.safetensors"
    overrides = [f"teacher.checkpoint={file}"]
    with pytest.raises(RecipeError, match=r"^teacher\.checkpoint: cannot read .*t\.safetensors"):
        recipes.identity(recipes.load("digits/svd", overrides))
    file.write_bytes(b"one")
    first = recipes.identity(recipes.load("digits/svd", overrides))
    file.write_bytes(b"two")
    assert recipes.identity(recipes.load("digits/svd", overrides)) != first


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.rank=2", "loss.weight=3"], (2, 3.0)),
        (["loss.svd.rank=2", "loss.svd.weight=3"], (2, 3.0)),
        (["loss.rank=2", "loss.name=svd"], (2, 5.0)),
        (["loss.rank=2", "loss=svd"], (2, 5.0)),
        (["loss.svd.rank=2", "loss.svd.weight=3", "loss=[svd]"], (2, 3.0)),
    ],
)
def test_several_settings_of_a_loss_all_count(overrides: list[str], expected: tuple[int, float]) -> None:
    """None of the settings of a loss given beside each other gets lost."""
    (loss,) = recipes.load("digits/svd", overrides).loss
    assert (loss.rank, loss.weight) == expected


# Methods


def described(recipe: recipes.Recipe) -> dict[str, object]:
    """What a method may change: everything else of a recipe is the student's."""
    plain = recipe.to_dict()
    for key in ("name", "description", "teacher", "loss"):
        del plain[key]
    for key in ("first_stage", "first_stage_norm"):
        del plain["train"][key]
    return plain


@pytest.mark.parametrize("method", recipes.methods())
def test_every_method_fits_every_pair(method: str) -> None:
    """It changes what helps the student and nothing else, is named for it, and survives being written down."""
    for name in ("digits/svd", "fashion-mnist/soft-target", "small/vgg-fsp", "kd-methods/resnet8-fitnet"):
        plain, recipe = recipes.load(name), recipes.load(name, method=method)
        assert described(recipe) == described(plain)
        assert recipe.description
        assert recipe.name.endswith(f"/{method}")
        assert recipes.validate(recipe.to_dict()) == recipe
        assert recipe.teacher == (None if method == "alone" else plain.teacher)
        assert recipes.identity(recipe)


@pytest.mark.parametrize("method", recipes.methods())
def test_a_method_s_own_name_is_told_by_the_settings(method: str) -> None:
    """What `Recipe.method` reads off the settings is the method that they came from, sums spelt out."""
    spelt = {
        "attention-crd": "attention",
        "fitnet-crd": "fitnet",
        "fitnet": "fitnet+soft-target-two-stage",
        "fitnet-hint": "fitnet-two-stage",
        "svd-own-vectors": "svd-own-norm-two-stage",
        "svd-recommended": "svd-k8-teacher-basis-own-norm-two-stage",
        "svd-soft-target": "svd-k8-teacher-basis-own-norm+soft-target-two-stage",
        "svd-soft-target-standardized": "svd-k8-teacher-basis-own-norm+soft-target-standardized-two-stage",
        "svd-dkd": "svd-k8-teacher-basis-own-norm+dkd-two-stage",
    }
    assert recipes.load("digits/soft-target", method=method).method == spelt.get(method, method)


@pytest.mark.parametrize("method", ["svd-eccv2018", "svd", "svd-two-stage", "fitnet"])
def test_a_method_takes_the_place_of_the_one_that_a_recipe_extends(method: str) -> None:
    """Nothing of `svd-recommended` is left, neither its bounds nor its stages; what the recipe says itself stays."""
    replaced = recipes.load("regimes/digits-few", method=method)
    train = ["train.epochs=225", "train.first_stage_counts=true", "train.evaluate_every=15"]
    plain = recipes.load("digits/student", ["teacher.recipe=digits/teacher", *train], method=method)
    assert (replaced.loss, replaced.train) == (plain.loss, plain.train)
    own = recipes.load("digits/svd", method=method)  # has a weight of its own, for KD-SVD
    assert [loss.weight for loss in own.loss] == [5 if loss.name == "svd" else loss.weight for loss in replaced.loss]


def test_a_method_that_a_recipe_extends_is_the_recipe_itself(tmp_path: Path) -> None:
    """With the stages and weights that the recipe gives it, directly or by what it extends."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: [digits/student, methods/svd-recommended]\nteacher: {recipe: digits/teacher}\n"
        "train: {first_stage: 7}\n"
    )
    further = tmp_path / "further.yaml"
    further.write_text("extends: mine.yaml\nloss: {name: svd, weight: 2}\n")
    for file in (mine, further):
        plain, same = recipes.load(file), recipes.load(file, method="svd-recommended")
        assert (same.train, same.loss, same.digest()) == (plain.train, plain.loss, plain.digest())
        assert same.name == f"{plain.name}/svd-recommended"
    assert recipes.load(further, method="svd-two-stage").train.first_stage == 0.25
    published = recipes.load("eccv/vgg-cifar100-fsp", method="fsp")
    assert published.loss == recipes.load("eccv/vgg-cifar100-fsp").loss


def test_methods_say_what_they_are() -> None:
    """One line each, all different."""
    found = recipes.methods()
    assert list(found) == sorted(found)
    assert len(set(found.values())) == len(found)
    assert all(10 < len(text) < 80 for text in found.values())


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("digits/svd", "fsp", "digits/fsp"),
        ("digits/student", "alone", "digits/alone"),
        ("digits/soft-target", "svd-k2", "digits/svd-k2"),
        ("small/vgg-fsp", "svd", "small/vgg-fsp/svd"),
        ("mine.yaml", "svd", "mine/svd"),
        ("svd.yaml", "fsp", "svd/fsp"),
    ],
)
def test_names_of_recipes_with_a_method(tmp_path: Path, name: str, method: str, expected: str) -> None:
    """The method takes the place of a method or of the word student, else it follows."""
    path = Path(name)
    if path.suffix:
        path = tmp_path / name
        path.write_text("extends: digits/svd\n")
    assert recipes.load(str(path), method=method).name == expected


def test_a_method_keeps_what_the_recipe_says_of_the_same_loss(tmp_path: Path) -> None:
    """Its weight above all, which was found for these networks and images; another method's loss starts afresh."""
    (tmp_path / "mine.yaml").write_text("extends: digits/svd\nloss: {name: attention, weight: 5, power: 4}\n")
    (loss,) = recipes.load(tmp_path / "mine.yaml", method="attention").loss
    assert (loss.weight, loss.model_dump()["power"]) == (5, 4)
    (loss,) = recipes.load("digits/svd", method="attention").loss
    assert (loss.weight, loss.model_dump()["power"]) == (1000, 2)
    for method in ("svd", "svd-k2", "svd-poster", "svd-two-stage", "svd-soft-target"):
        assert recipes.load("digits/svd", method=method).loss[0].weight == 5
    (loss,) = recipes.load("digits/svd", ["loss.weight=3"], method="attention").loss
    assert loss.weight == 3


@pytest.mark.parametrize(
    ("extended", "loss"),
    [("svd-recommended", "{rank: 4, weight: 2}"), ("svd-soft-target", "{svd: {rank: 4, weight: 2}}")],
)
def test_settings_of_a_loss_that_the_extended_method_names(extended: str, loss: str, tmp_path: Path) -> None:
    """They stay under another method with that loss, as if the recipe had named it, and go where there is none.

    But what a method says itself, beside the weights, is the method's: the rank, of `svd-dkd`.
    """
    (tmp_path / "mine.yaml").write_text(
        f"extends: [digits/student, methods/{extended}]\nteacher: {{recipe: digits/teacher}}\nloss: {loss}\n"
    )
    for method in (extended, "svd", "svd-two-stage", "svd-dkd"):
        first, *_ = recipes.load(tmp_path / "mine.yaml", method=method).loss
        rank = 8 if method == "svd-dkd" else 4
        assert (first.name, first.model_dump()["rank"], first.weight) == ("svd", rank, 2), method
    (other,) = recipes.load(tmp_path / "mine.yaml", method="fsp").loss
    assert other == recipes.load("digits/svd", method="fsp").loss[0]


def test_a_method_goes_before_the_recipe_s_variant() -> None:
    """Preset, stages and losses are the method's."""
    recipe = recipes.load("kd-methods/resnet8-svd", method="svd")
    assert recipe.loss[0].model_dump()["extra"] == 1
    assert recipe.method == "svd"
    assert recipes.load("kd-methods/resnet8-fitnet", method="svd").train.first_stage == 0
    assert recipes.load("kd-methods/resnet8-svd", method="svd-poster").method == "svd-poster"


def test_overrides_go_before_a_method() -> None:
    """Whatever it says."""
    overrides = ["train.first_stage=3", "loss.svd.rank=4"]
    recipe = recipes.load("digits/soft-target", overrides, method="svd-k2")
    assert (recipe.train.first_stage, recipe.method) == (3, "svd-k4-two-stage")


def test_alone_leaves_out_what_is_for_the_other_methods(tmp_path: Path) -> None:
    """A list of methods shares one list of overrides, and images without labels that one cannot use."""
    overrides = ["loss.weight=3", "teacher.overrides.seed=1", "data.unlabelled={batch_size: 5}", "data.train_size=30"]
    alone = recipes.load("digits/svd", overrides, method="alone")
    assert (alone.teacher, alone.loss, alone.data.unlabelled, alone.data.train_size) == (None, (), None, 30)
    assert alone.digest() == recipes.load("digits/student", ["data.train_size=30"]).digest()
    (tmp_path / "mine.yaml").write_text("extends: digits/svd\ndata: {unlabelled: {size: 10}}\n")
    assert recipes.load(tmp_path / "mine.yaml", method="alone").data.unlabelled is None
    assert recipes.load(tmp_path / "mine.yaml", method="fsp").data.unlabelled is not None


def test_wrong_methods() -> None:
    """An unknown one, and one that a recipe has no teacher for."""
    with pytest.raises(RecipeError, match="no method 'fps'; did you mean 'fsp'"):
        recipes.load("digits/svd", method="fps")
    with pytest.raises(RecipeError, match="method 'svd' needs a teacher, and digits/student has none; add teacher"):
        recipes.load("digits/student", method="svd")
    assert recipes.load("digits/student", ["teacher.recipe=digits/teacher"], method="svd").method == "svd"


def test_same_result_same_name() -> None:
    """A method that says what the recipe says already, or says it otherwise, names the same run."""
    own = recipes.load("digits/svd")
    assert recipes.identity(recipes.load("digits/svd", method="svd")) == recipes.identity(own)
    assert recipes.identity(recipes.load("digits/svd", ["loss=[svd]"])) == recipes.identity(own)
    poster = recipes.load("digits/svd", ["loss.preset=poster"])
    spelt = ["loss.rank=2", "loss.assignment=argmax", "loss.gradient=paper", "loss.clip=poster"]
    assert recipes.identity(poster) == recipes.identity(recipes.load("digits/svd", spelt))
    assert recipes.identity(poster) != recipes.identity(own)


# Sums of losses


def test_a_name_stands_for_a_loss_with_its_defaults() -> None:
    """Alone or in a list; the order of the list is kept."""
    recipe = recipes.load("digits/soft-target", ["loss=[fsp,{name: svd, rank: 2},soft-target]"])
    assert [loss.name for loss in recipe.loss] == ["fsp", "svd", "soft-target"]
    assert recipe.method == "fsp+svd-k2+soft-target"
    (loss,) = recipes.load("digits/soft-target", ["loss=fsp"]).loss
    assert loss.name == "fsp"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ["loss=[svd,{name: soft-target, temprature: 1}]"],
            r"^loss\.temprature: unknown key for loss 'soft-target'; did",
        ),
        (["loss=[svd,{name: soft-target, temperature: -1}]"], r"^loss\.temperature: expected more than 0, got -1$"),
        (["loss=[svd,sof-target]"], r"^loss\.name: no 'sof-target'; expected 'svd' or 'soft-target'"),
        (["loss=[svd,{temperature: 1}]"], r"^loss\.name: missing; expected 'svd' or"),
        (["loss=[svd,soft-target]", "loss.weight=3"], r"^loss: a sum of svd, soft-target; say which"),
        (["loss.svd.rnk=3"], r"^loss\.rnk: unknown key for loss 'svd'; did you mean 'rank'\?$"),
        (["loss.fsp.weight=3"], r"^loss\.fsp: unknown key for loss 'svd'"),
        (["loss.preset=psoter"], r"^loss\.preset: no 'psoter'; expected 'eccv2018' or 'poster'"),
    ],
)
def test_wrong_losses(overrides: list[str], match: str) -> None:
    """Each is one line that names the key."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.load("digits/svd", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [name for name in recipes.methods() if "svd" in name])
@pytest.mark.parametrize("written_with", ["svd", "svd-poster", "svd-recommended", "svd-own-vectors", "svd-k4"])
def test_a_recipe_written_out_in_full_takes_methods_as_its_short_form_does(
    tmp_path: Path, method: str, written_with: str
) -> None:
    """Defaults and a preset's values that `recipes show` writes out are no settings of the recipe's own."""
    written = recipes.load("fashion-mnist/svd", method=written_with)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written.to_dict()))
    found = recipes.load(tmp_path / "mine.yaml", method=method)
    expected = recipes.load("fashion-mnist/svd", method=method)
    assert (found.digest(), found.method) == (expected.digest(), expected.method)


def test_a_preset_laid_over_a_recipe_written_out_in_full(tmp_path: Path) -> None:
    """It counts, except for what the recipe has changed itself."""
    written = recipes.load("digits/svd", ["loss.beta=4"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written.to_dict()))
    (loss,) = recipes.load(tmp_path / "mine.yaml", ["loss.preset=poster"]).loss
    settings = loss.model_dump()
    assert (settings["rank"], settings["clip"], settings["gradient"]) == (2, "poster", "paper")
    assert (settings["beta"], settings["weight"]) == (4, 5)


def test_a_preset_laid_over_a_method(tmp_path: Path) -> None:
    """It replaces rank, basis and the like, which the method has in place of a preset, and leaves its bound."""
    (tmp_path / "mine.yaml").write_text("extends: digits/svd-recommended\nloss: {preset: eccv2018}\n")
    found = recipes.load(tmp_path / "mine.yaml"), recipes.load("digits/svd-recommended", ["loss.preset=eccv2018"])
    found += (recipes.load("digits/svd", ["loss.preset=eccv2018"], method="svd-recommended"),)
    for recipe in found:
        settings = recipe.loss[0].model_dump()
        assert settings | recipes.PRESETS["eccv2018"] | {"clip": "own_norm", "basis": "own", "bound": 0.3} == settings
    replaced = recipes.load("digits/svd-recommended", ["loss.preset=eccv2018", "loss.rank=3"])
    assert replaced.loss[0].model_dump()["rank"] == 3


def test_what_the_teacher_s_basis_has_no_use_for(tmp_path: Path) -> None:
    """It is refused; a recipe's own gives way to a method in that basis, and a preset's to that basis."""
    for setting in ("extra=3", "assignment=argmax", "gradient=paper"):
        key, _, value = setting.partition("=")
        with pytest.raises(RecipeError, match=rf"^loss\.{key}: with basis=teacher the student has no vectors"):
            recipes.load("digits/svd-recommended", [f"loss.{key}={value}"])
    (tmp_path / "mine.yaml").write_text("extends: digits/svd\nloss: {name: svd, rank: 2, gradient: paper, extra: 3}\n")
    for method in ("svd-recommended", "svd-teacher-basis", "svd-dkd"):
        settings = recipes.load(tmp_path / "mine.yaml", method=method).loss[0].model_dump()
        assert (settings["basis"], settings["gradient"], settings["extra"]) == ("teacher", "exact", 1), method
    settings = recipes.load(tmp_path / "mine.yaml", method="svd-own-vectors").loss[0].model_dump()
    assert (settings["rank"], settings["gradient"], settings["extra"]) == (1, "paper", 3)
    preset = recipes.load("digits/svd", ["loss.preset=poster", "loss.basis=teacher"]).loss[0].model_dump()
    assert (preset["rank"], preset["gradient"], preset["assignment"]) == (2, "exact", None)


def test_the_stage_of_a_loss_belongs_to_the_method(tmp_path: Path) -> None:
    """A recipe of two stages can be trained by a method of one."""
    (tmp_path / "mine.yaml").write_text(
        "extends: digits/svd\nloss: {name: svd, stage: both}\ntrain: {first_stage: 10}\n"
    )
    recipe = recipes.load(tmp_path / "mine.yaml", method="svd")
    assert (recipe.loss[0].stage, recipe.train.first_stage) == (None, 0)


def test_another_teacher_starts_afresh() -> None:
    """It does not inherit overrides and taps that were for the former one; the same one keeps them."""
    other = recipes.load("fashion-mnist/one-percent", ["teacher.recipe=digits/teacher"]).teacher
    assert other is not None
    assert other.overrides == {}
    same = recipes.load("fashion-mnist/one-percent", ["teacher.taps=[block1,block2]"]).teacher
    assert same is not None
    assert same.overrides["model"] == {"width": 0.125}


def test_a_sum_has_no_order() -> None:
    """The same losses in another order are the same experiment."""
    one, other = (recipes.load("digits/svd", [f"loss={order}"]) for order in ("[svd,soft-target]", "[soft-target,svd]"))
    assert recipes.identity(one) == recipes.identity(other)


def test_the_teacher_sees_the_same_images() -> None:
    """Where its own recipe does not name them: classes, size and channels; not those of another data set."""
    settings = ["data.image_size=32", "data.channels=3", "data.classes=[Bag,Coat]"]
    teacher = recipes.teacher_of(recipes.load("fashion-mnist/svd", settings))
    assert teacher is not None
    assert (teacher.data.image_size, teacher.data.channels, teacher.data.classes) == (32, 3, ("Bag", "Coat"))
    foreign = recipes.teacher_of(recipes.load("fashion-mnist/svd", [*settings, "teacher.recipe=digits/teacher"]))
    assert foreign is not None
    assert (foreign.data.image_size, foreign.data.classes) == (16, None)


def test_the_teacher_holds_out_the_same_images() -> None:
    """The part is handed on, and another one refused; not to another data set's teacher, and never the task."""
    part = "data.held_out=0.1"
    student = recipes.load("digits/svd", [part, "data.task=rotation"])
    teacher, foreign = (
        recipes.teacher_of(recipes.load("digits/svd", [part, "data.task=rotation", f"teacher.recipe={name}"]))
        for name in ("digits/teacher", "fashion-mnist/teacher")
    )
    assert teacher is not None
    assert foreign is not None
    assert (teacher.data.held_out, teacher.data.task, foreign.data.held_out) == (0.1, "classes", None)
    assert recipes.identity(student) != recipes.identity(recipes.load("digits/svd"))
    for own, said in (([part], "0.1"), ([], "nothing")):
        with pytest.raises(RecipeError, match=rf"^data\.held_out: .* holds out 0\.2 .* the student {said}; .*$"):
            recipes.lineage(recipes.load("digits/svd", [*own, "teacher.overrides.data.held_out=0.2"]))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("data.held_out=0", r"^data\.held_out: expected more than 0, got 0$"),
        ("data.held_out=1.0", r"^data\.held_out: expected less than 1, got 1\.0$"),
        ("data.task=rotations", r"^data\.task: no 'rotations'; expected 'classes' or 'rotation'$"),
        ("data={task: rotation, augment: {flip: true}}", r"^data\.augment\.flip: task=rotation .*flip=false$"),
        ("data={task: rotation, augment: {rotation: 46}}", r"^data\.augment\.rotation: .* 46° .* at most 45$"),
        ("data={task: rotation, augment: {trivial_augment: true}}", r"^data\.augment\.trivial_augment: task=rotation"),
    ],
)
def test_parts_and_tasks_that_cannot_be(override: str, match: str) -> None:
    """One line that names the key."""
    with pytest.raises(RecipeError, match=match):
        recipes.load("digits/teacher", [override])
