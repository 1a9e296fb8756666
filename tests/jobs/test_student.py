"""A trained network's plain values, its transform, and what it takes pictures for."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.pictures import encoded, noise, tree

from svdistill import data, jobs, nets
from svdistill.errors import CheckpointError, DataError, OptionError, ShapeError, SvdistillWarning
from svdistill.jobs import Run, Student

CLASSES = ("cat", "dog", "eel")
SETTINGS = {"name": "vgg-student", "num_classes": 3, "in_channels": 3, "width": 0.1}
SAID = {"classes": json.dumps(CLASSES), "image_size": "8", "mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.25, 0.3]"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a data set of three classes."""
    return tree(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a very small network on the photos."""
    settings = ["data.name=image-folder", f"data.root={photos}", "data.image_size=8", "model.width=0.1"]
    settings += ["data.train_size=null", "train.batch_size=6", "train.epochs=1", "train.device=cpu"]
    return jobs.train("digits/student", overrides=settings, runs=tmp_path_factory.mktemp("runs"))


def saved(path: Path, **changes: str) -> Path:
    """Write a fresh network that says how it is used, but for the changes."""
    torch.manual_seed(0)
    extra = {key: value for key, value in {**SAID, **changes}.items() if value}
    nets.save(nets.create(**SETTINGS), path, **SETTINGS, extra=extra)  # type: ignore[arg-type]
    return path


def test_says_what_it_is_in_plain_values(run: Run, photos: Path) -> None:
    """Classes, size and statistics are those of the images that it was trained on."""
    student = Student.load(run.path)
    mean, std = data.channel_statistics(data.load("image-folder", root=photos, image_size=8).train)
    assert student.classes == CLASSES
    assert (student.image_size, student.channels, student.trained_on) == (8, 3, "image-folder")
    assert (student.mean, student.std) == (tuple(mean.tolist()), tuple(std.tolist()))
    assert not student.network.training


def test_transform_by_hand(tmp_path: Path) -> None:
    """A square of the right size is standardized and nothing else; a wide one loses its sides alike."""
    student = Student.load(saved(tmp_path / "student.safetensors"))
    pixels = noise(0, 8, 8)
    expected = (pixels / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    found = student.transform(pixels).double().numpy()
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)
    wide = np.zeros((8, 14, 3), dtype=np.uint8)
    wide[:, 3:11] = pixels
    assert torch.equal(student.transform(wide), student.transform(pixels))
    grey = noise(1, 8, 8, channels=1)
    assert torch.equal(student.transform(grey), student.transform(np.stack([grey] * 3, axis=2)))
    assert torch.equal(student.transform(grey[..., None]), student.transform(grey))


def test_transform_is_that_of_the_data(run: Run, tmp_path: Path) -> None:
    """Files and pictures come out as the data set's own reader has them, whatever their kind, and stay as they are."""
    student = Student.load(run.path)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(2, 20, 12)).save(turned, format="JPEG", exif=exif)
    clear = io.BytesIO()
    Image.fromarray(np.dstack([noise(3, 9, 11), noise(4, 9, 11, channels=1)])).save(clear, format="PNG")
    contents = {"a.jpg": turned.getvalue(), "b.png": clear.getvalue(), "c.gif": encoded(noise(5, 30, 30), "GIF")}
    contents["d.png"] = encoded(noise(6, 10, 10, channels=1).astype(np.uint16) * 200)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    theirs = data.load_unlabelled("image-folder", root=tmp_path, image_size=8, channels=3)
    expected = student.standardize(next(iter(theirs.batches([torch.arange(4)]))))
    for name, one in zip(sorted(contents), expected, strict=True):
        assert torch.equal(student.transform(tmp_path / name), one)
        with Image.open(tmp_path / name) as picture:
            before = picture.size, picture.mode
            assert torch.equal(student.transform(picture), one)
            assert (picture.size, picture.mode) == before


def test_transform_of_something_else(tmp_path: Path) -> None:
    """Floating-point arrays, channels first and damaged files are refused in one line."""
    student = Student.load(saved(tmp_path / "student.safetensors"))
    for wrong in (np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), torch.zeros(3, 8, 8)):
        with pytest.raises(ShapeError, match=r"expected a picture of Pillow, or uint8 \(H, W\) or \(H, W, 3\)"):
            student.transform(wrong)  # type: ignore[arg-type]
    (tmp_path / "torn.png").write_bytes(encoded(noise(0, 8, 8))[:60])
    with pytest.raises(DataError, match="it has 4 × 0 pixels"):
        student.transform(np.zeros((0, 4), dtype=np.uint8))
    with pytest.raises(DataError, match=r"torn\.png cannot be read: "):
        student.transform(tmp_path / "torn.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": "[0.5]", "std": "[0.5]"}, "has 1 means and 1 deviations for 3 channels"),
        ({"mean": ""}, "does not say how its images are standardized"),
        ({"classes": '["cat", "dog"]'}, "names 2 classes for 3 outputs"),
        ({"image_size": ""}, "does not say how large its images are"),
    ],
)
def test_a_file_that_says_too_little(changes: dict[str, str], words: str, tmp_path: Path) -> None:
    """It is refused where what is missing is needed."""
    file = saved(tmp_path / "student.safetensors", **changes)
    with pytest.raises(CheckpointError, match=words):
        Student.load(file).transform(noise(0, 8, 8))


def test_predictions_are_those_of_the_evaluation(run: Run, photos: Path) -> None:
    """A folder's pictures, sorted, are taken for what `evaluate` counts; probabilities are a softmax of the logits."""
    predictions = list(jobs.predict(run.path, photos / "val", top=5))
    files = sorted((photos / "val").rglob("*.png"))
    assert [one.image for one in predictions] == files
    counted = torch.zeros(3, 3, dtype=torch.int64)
    for one in predictions:
        counted[CLASSES.index(one.image.parent.name), CLASSES.index(one.classes[0][0])] += 1
    assert counted.tolist() == jobs.evaluate(run.path, device="cpu")["confusion"]
    student = Student.load(run.path)
    logits = student.logits(torch.stack([student.transform(file) for file in files])).double()
    for one, row in zip(predictions, logits.exp() / logits.exp().sum(dim=1, keepdim=True), strict=True):
        assert dict(one.classes) == pytest.approx(dict(zip(CLASSES, row.tolist(), strict=True)), rel=1e-5)
        probabilities = [probability for _, probability in one.classes]
        assert probabilities == sorted(probabilities, reverse=True)


def test_random_numbers_are_left_alone(run: Run, photos: Path, tmp_path: Path) -> None:
    """A loop that measures its network after each epoch does not draw the same images in all of them."""

    def drawn() -> tuple[float, ...]:
        return torch.rand(()).item(), np.random.rand(), random.random()

    def seed() -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    seed()
    expected = [drawn() for _ in range(3)]
    seed()
    jobs.evaluate(run.path, device="cpu")
    assert drawn() == expected[0]
    list(jobs.predict(run.path, photos / "val", device="cpu"))
    assert drawn() == expected[1]
    jobs.export(run.path, to="torch-export", output=tmp_path / "student.pt2")
    assert drawn() == expected[2]


def test_a_picture_that_cannot_be_read_is_told(run: Run, photos: Path, tmp_path: Path) -> None:
    """The others around it keep their own predictions, over several batches."""
    sound = photos / "val" / "dog" / "1.png"
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(20))
    (tmp_path / "notes.txt").write_text("no picture")
    for number in range(70):
        (tmp_path / f"{number:02}.png").write_bytes((photos / "val" / CLASSES[number % 3] / "0.png").read_bytes())
    with pytest.warns(SvdistillWarning, match=r"left out of .*notes\.txt"):
        found = list(jobs.predict(run.path, [sound, tmp_path], top=1))
    assert len(found) == 72
    assert [one.image.name for one in found if one.error] == ["torn.jpg"]
    alone = {name: next(jobs.predict(run.path, photos / "val" / name / "0.png", top=1)).classes for name in CLASSES}
    for number, one in enumerate(found[1:71]):
        assert one.classes[0][0] == alone[CLASSES[number % 3]][0][0]
        assert one.classes[0][1] == pytest.approx(alone[CLASSES[number % 3]][0][1], rel=1e-4)


def test_wrong_pictures_and_networks(run: Run, tmp_path: Path) -> None:
    """All of it is found before the first prediction is asked for."""
    with pytest.raises(DataError, match="there is no picture and no folder"):
        jobs.predict(run.path, tmp_path / "nothing.png")
    with pytest.raises(DataError, match="holds no picture"):
        jobs.predict(run.path, tmp_path)
    with pytest.raises(DataError, match="no picture is named"):
        jobs.predict(run.path, [])
    with pytest.raises(OptionError, match="top is 0"):
        jobs.predict(run.path, tmp_path, top=0)
    wide = {**SETTINGS, "in_channels": 2}
    extra = {**SAID, "mean": "[0.5, 0.5]", "std": "[1.0, 1.0]"}
    nets.save(nets.create(**wide), tmp_path / "two.safetensors", **wide, extra=extra)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="takes images of 2 channels, and pictures have 1 or 3"):
        jobs.predict(tmp_path / "two.safetensors", tmp_path)


def test_values_that_are_not_finite_are_no_prediction(tmp_path: Path) -> None:
    """A network that gives NaN has an error, not the first class."""
    network = nets.create(**SETTINGS)  # type: ignore[arg-type]
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    nets.save(network, tmp_path / "nan.safetensors", **SETTINGS, extra=SAID)  # type: ignore[arg-type]
    (tmp_path / "one.png").write_bytes(encoded(noise(0, 8, 8)))
    with pytest.raises(CheckpointError, match="not finite"):
        list(jobs.predict(tmp_path / "nan.safetensors", tmp_path / "one.png"))


def test_a_network_of_own_code(tmp_path: Path) -> None:
    """Its code runs only by leave; then its pictures are predicted as any other's."""
    settings: dict[str, Any] = {**SETTINGS, "name": "tests.nets.own_code:Small", "width": 1.0}
    network = nets.create(**settings, allow_code=True)
    nets.save(network, tmp_path / "own.safetensors", **settings, extra=SAID)
    (tmp_path / "one.png").write_bytes(encoded(noise(0, 8, 8)))
    with pytest.raises(OptionError, match="--allow-code"):
        jobs.predict(tmp_path / "own.safetensors", tmp_path / "one.png")
    (found,) = jobs.predict(tmp_path / "own.safetensors", tmp_path / "one.png", allow_code=True)
    assert sum(probability for _, probability in found.classes) == pytest.approx(1)
