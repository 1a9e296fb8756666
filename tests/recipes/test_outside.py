"""Networks from outside in recipes: whose code may run, what weights they begin with, and what a teacher is shown."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from tests.nets.own_code import Small
from tests.nets.test_foreign import installed
from tests.recipes.small import checked
from torch import Tensor

from svdistill import nets, recipes
from svdistill.errors import CheckpointError, RecipeError, SvdistillWarning
from svdistill.recipes import build, outside, weights
from svdistill.recipes.images import load_images

OWN = "tests.nets.own_code:Small"
STUDENT = {
    "name": "mine",
    "data": {"name": "digits", "train_size": 20},
    "model": {"name": OWN, "taps": ["first", "second"]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "train": {"epochs": 1, "batch_size": 10, "device": "cpu"},
}
SCALE = {"mean": [0.5], "std": [0.25]}


def taught(teacher: dict[str, Any], loss: str = "svd", **model: Any) -> recipes.Recipe:
    """Return a recipe with a teacher from outside, which may run code."""
    own = {"allow_code": True, "loss": loss, "model": {**STUDENT["model"], **model}}  # type: ignore[dict-item]
    return recipes.validate(
        {**STUDENT, **own, "teacher": {"taps": ["first", "second"], "model": {"name": OWN, **teacher}}}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Weights of a network of ten classes, of grey images, as somebody's script saves them."""
    torch.manual_seed(1)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in Small(10, 1).state_dict().items()}}, tmp_path / "w.pt"
    )
    return tmp_path / "w.pt"


class TestLeave:
    """Leave to run code is the user's alone."""

    @staticmethod
    def write(path: Path, **settings: Any) -> Path:
        """Write a recipe; JSON is YAML."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**STUDENT, **settings}))
        return path

    def test_from_the_file_that_is_named(self, tmp_path: Path) -> None:
        """Not from one that it extends, and it is not written down."""
        allowing = self.write(tmp_path / "allowing.yaml", allow_code=True)
        recipe = recipes.load(allowing)
        assert recipe.allow_code
        assert "allow_code" not in recipe.to_dict()
        (tmp_path / "extending.yaml").write_text("extends: allowing.yaml\n")
        assert not recipes.load(tmp_path / "extending.yaml").allow_code
        assert recipes.load(tmp_path / "extending.yaml", ["allow_code=true"]).allow_code
        assert recipes.identity(recipe) == recipes.identity(recipes.load(self.write(tmp_path / "plain.yaml")))

    def test_not_from_the_folder_of_a_run(self, tmp_path: Path) -> None:
        """Such folders are handed around."""
        inside = self.write(tmp_path / "runs" / "mine" / "0-1" / "recipe.yaml", allow_code=True)
        with pytest.raises(RecipeError, match=r"^allow_code: .* lies in the folder of a run, which gives no leave"):
            recipes.load(inside)

    def test_a_teacher_has_the_student_s(self, tmp_path: Path) -> None:
        """Whatever its own recipe says."""
        teacher = self.write(tmp_path / "teacher.yaml", allow_code=True)
        helped = {"teacher": {"recipe": str(teacher)}, "loss": "svd"}
        student = recipes.load(self.write(tmp_path / "student.yaml", **helped))
        for recipe in (student, recipes.load(tmp_path / "student.yaml", ["allow_code=true"])):
            found = recipes.teacher_of(recipe)
            assert found is not None
            assert found.allow_code == recipe.allow_code
        with pytest.raises(RecipeError, match=r"model\.name: 'tests\.nets\.own_code:Small' is code, which runs only"):
            load_images(student)
        with pytest.raises(RecipeError, match=r"^teacher\.overrides\.allow_code: one word counts for student and"):
            recipes.teacher_of(recipes.load(tmp_path / "student.yaml", ["teacher.overrides.allow_code=true"]))


def test_what_counts_for_a_run_s_name(saved: Path, tmp_path: Path) -> None:
    """What is in a file of weights, not where it lies; each setting; nothing where none of them is used."""
    copy = tmp_path / "copy.pt"
    copy.write_bytes(saved.read_bytes())
    teacher = {"checkpoint": str(saved), **SCALE}
    one, same = (recipes.identity(taught({**teacher, "checkpoint": str(file)})) for file in (saved, copy))
    assert one == same
    begun, again = (recipes.identity(taught(teacher, checkpoint=str(file))) for file in (saved, copy))
    assert begun == again
    copy.write_bytes(b"other")
    others = [{**teacher, "checkpoint": str(copy)}, {**teacher, "mean": [0.4]}, {**teacher, "image_size": 16}]
    others += [{**teacher, "arguments": {"width": 5}}, {"pretrained": False}]
    found = [recipes.identity(taught(other)) for other in others]
    found += [
        recipes.identity(taught(teacher, checkpoint=str(copy))),
        recipes.identity(taught(teacher, pretrained=True)),
    ]
    assert len({one, begun, *found}) == len(found) + 2


def test_a_teacher_s_copy_of_the_images(saved: Path) -> None:
    """It is resized, and standardized as the teacher was trained: as if that were done to the raw images."""
    recipe = taught({"checkpoint": str(saved), "image_size": 12, **SCALE})
    images = load_images(recipe)
    made = outside.make(recipe, images)
    raw = images.train.images.float() / 255  # type: ignore[union-attr]
    wanted = torch.nn.functional.interpolate((raw - 0.5) / 0.25, (12, 12), mode="bilinear", antialias=True)
    expected = made.network(wanted)
    seen: list[Tensor] = []
    network = outside.ready(made, images)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    standardized = (raw - images.mean[:, None, None]) / images.std[:, None, None]
    assert torch.allclose(network(standardized), expected, atol=1e-4)
    assert torch.allclose(seen[0], wanted, atol=1e-5)
    assert torch.equal(made.network.head.weight, torch.load(saved)["state_dict"]["module.head.weight"])


def test_grey_images_for_a_teacher_of_colour(saved: Path) -> None:
    """Each channel is the grey one, standardized with its own mean and deviation."""
    recipe = taught({"pretrained": False, "arguments": {"in_channels": 3}, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]})
    images = load_images(recipe)
    seen: list[Tensor] = []
    network = outside.ready(outside.make(recipe, images), images)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    raw = torch.rand(2, 1, 8, 8)
    network((raw - images.mean[:, None, None]) / images.std[:, None, None])
    scaled = [(raw[:, 0] - mean) / std for mean, std in ((0.1, 1), (0.2, 2), (0.3, 4))]
    assert torch.allclose(seen[0], torch.stack(scaled, 1), atol=1e-6)


def test_kept_as_a_file_of_ours(saved: Path, tmp_path: Path) -> None:
    """Once for the same weights, under another name for others; what is read back is what was made."""
    recipe = taught({"checkpoint": str(saved), "image_size": 12, **SCALE})
    images = load_images(recipe)
    before = torch.get_rng_state()
    file = outside.keep(recipe, images, tmp_path / "teachers")
    assert torch.equal(torch.get_rng_state(), before)
    assert outside.keep(recipe, images, tmp_path / "teachers") == file
    batch = torch.randn(3, *images.shape)
    made = outside.ready(outside.make(recipe, images), images)
    assert torch.equal(weights.load_teacher(file, images, allow_code=True)(batch), made(batch))
    torch.save(Small(10, 1).state_dict(), saved)
    assert outside.keep(recipe, images, tmp_path / "teachers") != file
    assert len(list((tmp_path / "teachers").iterdir())) == 2


def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    """Its file says how many; where outputs are compared one by one it is refused."""
    torch.save(Small(7, 1).state_dict(), tmp_path / "w.pt")
    teacher = {"checkpoint": str(tmp_path / "w.pt"), **SCALE}
    images = load_images(taught(teacher))
    made = outside.make(taught(teacher), images)
    assert (made.num_classes, made.in_channels) == (7, 1)
    assert checked(taught(teacher)) == ()
    with pytest.raises(RecipeError, match=r"^teacher: it tells 7 classes apart and the student 10, but soft-target"):
        checked(taught(teacher, "soft-target"))
    with pytest.raises(CheckpointError, match=r"^teacher\.model\.checkpoint: .* head\.weight is \(7, 8\) there"):
        checked(taught({**teacher, "arguments": {"num_classes": 10}}))


def test_the_classes_of_a_teacher(saved: Path, tmp_path: Path) -> None:
    """A file of ours names them, and the size of its images; of others a warning says what was assumed."""
    with pytest.warns(SvdistillWarning, match=r"^teacher\.model: nobody names its classes, which are taken for the"):
        checked(taught({"checkpoint": str(saved), **SCALE}, "soft-target"))
    ours = tmp_path / "ours.safetensors"
    about: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "width": 1}
    extra = {"mean": "[0.25]", "std": "[0.75]", "image_size": "12", "classes": json.dumps([*"1023456789"])}
    nets.save(Small(10, 1), ours, name=OWN, **about, extra=extra)
    recipe = taught({"checkpoint": str(ours)}, "soft-target")
    made = outside.make(recipe, load_images(recipe))
    assert (made.scale, made.size) == (((0.25,), (0.75,)), (12, 12))
    with pytest.raises(RecipeError, match=r"^teacher: its class '1' stands where the student's '0' does, but soft-"):
        checked(recipe)


def test_a_student_s_own_image_size(tmp_path: Path) -> None:
    """Where neither recipe nor data set says it, images have the size that the network was made for."""
    installed("timm")
    for part, name in product(("train", "val"), "ab"):
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9), (number * 99, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    model = {"name": "timm:vit_tiny_patch16_224", "arguments": {"img_size": 48, "depth": 1}}
    data = {"name": "image-folder", "root": str(tmp_path)}
    recipe = recipes.validate({**STUDENT, "data": data, "model": model, "train": {"epochs": 1, "batch_size": 2}})
    assert load_images(recipe).shape == (3, 48, 48)
    trained = {**model, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert load_images(recipes.validate({**recipe.to_dict(), "model": trained})).mean.tolist() == [0.5] * 3


def test_images_that_a_network_cannot_take() -> None:
    """One line, whatever kind of error the network raises."""
    model = {"name": "tests.nets.own_code:OneSize", "taps": ["head"]}
    with pytest.raises(RecipeError, match=r"^model\.taps: .* cannot take .* \(Input .* model \(3\)\); change data\."):
        checked(recipes.validate({**STUDENT, "allow_code": True, "model": model}))


def test_a_student_begins_with_weights(saved: Path, tmp_path: Path) -> None:
    """All of them where they fit, and with their scale; else the last layer begins afresh, and a warning says so."""
    recipe = recipes.validate(
        {**STUDENT, "allow_code": True, "model": {"name": OWN, "checkpoint": str(saved), **SCALE}}
    )
    images = load_images(recipe)
    assert (images.mean.tolist(), images.std.tolist()) == ([0.5], [0.25])
    held = torch.load(saved)["state_dict"]
    network = build.model(recipe, images)
    assert all(torch.equal(value, held[f"module.{key}"]) for key, value in network.state_dict().items())
    torch.save(Small(7, 1).state_dict(), saved)
    with pytest.warns(SvdistillWarning, match=r"knows other classes, so that head\.weight, head\.bias begin afresh"):
        checked(recipe)
    ours = tmp_path / "ours.safetensors"
    extra = {"mean": "[0.25]", "std": "[0.75]"}
    nets.save(Small(10, 1), ours, name=OWN, num_classes=10, in_channels=1, width=1, extra=extra)
    recipe = recipes.validate({**STUDENT, "allow_code": True, "model": {"name": OWN, "checkpoint": str(ours)}})
    assert load_images(recipe).mean.tolist() == [0.25]


@pytest.mark.parametrize(
    ("teacher", "model", "message"),
    [
        ({"checkpoint": "FILE"}, {}, r"^teacher\.model: nobody names the mean .*teacher\.model\.mean and .*0\."),
        ({"pretrained": False}, {"checkpoint": "FILE"}, r"^model: nobody names the mean and deviation"),
        ({"checkpoint": "FILE", "mean": [0.5]}, {}, r"^teacher\.model\.mean: mean and std belong together"),
        ({"checkpoint": "FILE", "mean": [127], "std": [1]}, {}, r"^teacher\.model\.mean: expected a list of one"),
        ({"checkpoint": "FILE", "mean": [0.5, 0.5], "std": [1, 1]}, {}, r"^teacher\.model\.mean: 2 numbers for 1"),
        ({"pretrained": True}, {}, r"^teacher\.model\.pretrained: .* is code of your own"),
        ({"pretrained": True, "checkpoint": "FILE"}, {}, r"^teacher\.model\.checkpoint: the weights come from"),
        ({"name": "vgg8"}, {}, r"^teacher\.model: its weights would be random; give pretrained: true or checkpoint"),
        ({"name": "vgg9", "pretrained": False}, {}, r"^teacher\.model\.name: no network is called 'vgg9'; did you"),
        ({"pretrained": False, "arguments": {"widht": 3}}, {}, r"^teacher\.model\.arguments\.widht: .*'width'"),
        ({"pretrained": False, "arguments": {"num_classes": -1}}, {}, r"arguments\.num_classes: expected a whole"),
        ({"checkpoint": "FILEx", **SCALE}, {}, r"^teacher\.model\.checkpoint: no weights at .*w\.ptx; give a file"),
        ({"pretrained": False}, {"name": "tests.nets.own_code:nine"}, r"^model\.name: .* has no 'nine'"),
        ({"pretrained": False, "tap": 3}, {}, r"^teacher\.model\.tap: unknown key; known: name"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(teacher: dict[str, Any], model: dict[str, Any], message: str, saved: Path) -> None:
    """Before work starts, with the setting that is wrong."""
    filled = json.loads(json.dumps([teacher, model]).replace("FILE", str(saved)))

    def work() -> None:
        recipe = taught(filled[0], **filled[1])
        load_images(recipe)
        checked(recipe)

    with pytest.raises((RecipeError, CheckpointError), match=message) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_a_student_that_gives_no_number_for_each_class() -> None:
    """A network from outside may give anything."""
    recipe = recipes.validate({**STUDENT, "allow_code": True, "model": {"name": "torch.nn:Flatten"}})
    with pytest.raises(
        RecipeError, match=r"^model\.name: torch\.nn:Flatten gives \(4, 256\) for 4 images, expected \(4"
    ):
        checked(recipe)


def test_weights_that_do_not_say_their_network(saved: Path, tmp_path: Path) -> None:
    """As a teacher's checkpoint they are refused, with the way to give them."""
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(Small(10, 1).state_dict(), plain)
    for file in (saved, plain):
        teacher = {"checkpoint": str(file), "taps": ["first", "second"]}
        recipe = recipes.validate({**STUDENT, "allow_code": True, "loss": "svd", "teacher": teacher})
        with pytest.raises(RecipeError, match=r"does not say what network .* teacher\.model\.checkpoint, with"):
            checked(recipe)


def test_settings_laid_over_a_teacher() -> None:
    """Another network begins afresh, another setting of the same one does not; paths are made absolute."""
    below = {"teacher": {"recipe": "digits/teacher", "overrides": {"seed": 3}}}
    given = recipes.files.parse(["teacher.model.name=timm:resnet18", "teacher.model.pretrained=true"])
    assert given == {"teacher": {"model": {"name": "timm:resnet18", "pretrained": True}}}
    merged = recipes.files.merge(below, given)
    assert merged == given
    more = recipes.files.merge(merged, recipes.files.parse(["teacher.model.checkpoint=w.pt"]))
    assert more["teacher"]["model"]["name"] == "timm:resnet18"
    assert more["teacher"]["model"]["checkpoint"] == str(Path.cwd() / "w.pt")
    assert recipes.files.merge(more, {"teacher": {"recipe": "digits/svd"}}) == {"teacher": {"recipe": "digits/svd"}}


def test_random_tensors_that_no_file_would_hold() -> None:
    """A warning before work names one that is drawn anew; what is the same each time is none of them."""
    model = {"name": "tests.nets.own_code:Draws", "taps": ["first", "second"]}
    own = {**STUDENT, "allow_code": True, "model": model}
    with pytest.warns(SvdistillWarning, match=r"own_code:Draws' keeps second\.mask out of its state_dict"):
        checked(recipes.validate(own))
    checked(recipes.validate({**own, "model": {**model, "arguments": {"seed": 3}}}))
