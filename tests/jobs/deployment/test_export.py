"""An exported network is the trained one: in onnxruntime, in torch.export, and as a copy of its weights."""

import dataclasses
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.pictures import encoded, noise
from tests.jobs.shared_runs import HELPED
from torch import Tensor, nn

from svdistill import jobs, nets
from svdistill.data import ImageSet
from svdistill.data.folder import load_flat_folder
from svdistill.errors import DataError, ExportError, OptionError, SvdistillWarning
from svdistill.jobs import Pictures, Run, Student
from svdistill.jobs.deployment import formats, verify
from svdistill.jobs.deployment.export import _teacher_accuracy

SETTINGS = {"name": "vgg-student", "num_classes": 3, "in_channels": 3, "width": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a very small student with a teacher."""
    return jobs.train("digits/svd", overrides=HELPED, runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a fresh network of three classes, in no run and of no data set."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("alone") / "student.safetensors"
    extra = {"classes": '["a", "b", "c"]', "image_size": "16", "mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.25, 0.3]"}
    nets.save(nets.create(**SETTINGS), file, **SETTINGS, extra=extra)  # type: ignore[arg-type]
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(encoded(noise(seed, 16, 16)))
    return folder


@pytest.mark.filterwarnings("ignore:the int8 student")  # a network of a few steps, whose classes are close
def test_onnx_and_int8_beside_the_teacher(run: Run, tmp_path: Path) -> None:
    """The file in 32 bits gives the run's accuracy and PyTorch's logits for any batch; int8 is a quarter as large."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = jobs.export(run.path, output=tmp_path, int8=True, pictures=Pictures(calibration=40))
    assert done.files == (tmp_path / "student.onnx", tmp_path / "student-int8.onnx")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["student-int8.onnx", "student.onnx"]
    named = [(one.network, one.runtime) for one in done.networks]
    assert named == [(who, "PyTorch") for who in ("teacher", "student")] + [
        (who, "onnxruntime") for who in ("student", "int8 student")
    ]
    teacher, before, after, small = done.networks
    assert before.accuracy == after.accuracy == pytest.approx(run.summary["accuracy"], abs=1e-9)
    assert teacher.accuracy == jobs.evaluate(teacher.file, device="cpu")["accuracy"]
    assert (done.images, after.agreement, done.differing) == (797, 1.0, ())
    assert 0 < done.largest_difference < 1e-4 * done.largest_logit
    assert small.bytes == done.files[1].stat().st_size < after.bytes == done.files[0].stat().st_size

    told = {entry.key: entry.value for entry in onnx.load(done.files[0]).metadata_props}
    network = Student.load(run.path)
    assert json.loads(told["classes"]) == list(network.classes)
    assert json.loads(told["mean"]) == list(network.mean)
    assert (told["image_size"], told["preprocessing"], told["recipe"]) == ("8", "outside", "digits/svd")
    session = ort.InferenceSession(done.files[0])
    for number in (1, 3, 100):
        images = torch.randn(number, 1, 8, 8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network.logits(images), rtol=1e-4, atol=1e-5)
    integers = ort.InferenceSession(done.files[1])
    test = network.test_images()
    images = network.standardize(next(iter(test.batches([torch.arange(200)]))))
    (logits,) = integers.run(["logits"], {"images": images.numpy()})
    pair = torch.stack([torch.from_numpy(logits).flatten(), network.logits(images).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98
    json.dumps(done.to_dict())


def test_the_teacher_is_measured_on_the_images_of_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on those that it learnt from, which lie elsewhere and are called the same."""
    for tree, dark, bright in (("theirs", "a", "b"), ("ours", "b", "a")):
        for label, grey, count in ((dark, 0, 5), (bright, 255, 7)):
            for part in ("train", "val"):
                folder = tmp_path / tree / part / label
                folder.mkdir(parents=True)
                for number in range(count):
                    (folder / f"{number}.png").write_bytes(encoded(np.full((8, 8, 3), abs(grey - number), np.uint8)))
    small = "model: {name: resnet8, width: 0.25}\noptimizer: {name: sgd, lr: 0.05}\ntrain: {epochs: 1, batch_size: 6}\n"
    for tree, more in (("theirs", ""), ("ours", "teacher: {recipe: theirs.yaml}\nloss: {name: soft-target}\n")):
        data = f"data: {{name: image-folder, root: {tmp_path / tree}, image_size: 8}}\n"
        (tmp_path / f"{tree}.yaml").write_text(data + small + more)
    run = jobs.train(tmp_path / "ours.yaml", overrides=["train.device=cpu"], runs=tmp_path / "runs")
    done = jobs.export(run.path, to="torch-export")
    teacher = done.networks[0]
    assert done.source == f"test images of image-folder in {tmp_path / 'ours'}"
    assert teacher.accuracy == jobs.evaluate(teacher.file, root=tmp_path / "ours", device="cpu")["accuracy"]
    assert teacher.accuracy != jobs.evaluate(teacher.file, device="cpu")["accuracy"]

    def unreadable(*_: object, **__: object) -> None:
        raise DataError("its images are grey")

    student = Student.load(run.path)
    monkeypatch.setattr(Student, "test_images", unreadable)
    with pytest.warns(SvdistillWarning, match="^the teacher's accuracy is left out: its images are grey"):
        assert _teacher_accuracy(student, Student.load(teacher.file), Pictures()) is None


def test_preprocessing_inside_takes_pixels(student: Path, photos: Path, tmp_path: Path) -> None:
    """The graph standardizes as `transform` does, in both formats that have one."""
    network = Student.load(student)
    pixels = torch.stack([torch.from_numpy(noise(seed, 16, 16)).permute(2, 0, 1) for seed in range(3)])
    expected = network.logits(torch.stack([network.transform(noise(seed, 16, 16)) for seed in range(3)]))
    pictures = Pictures(images=photos)
    done = jobs.export(student, to="torch-export", output=tmp_path / "s.pt2", preprocessing=True, pictures=pictures)
    found = torch.export.load(tmp_path / "s.pt2").module()(pixels)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-6)
    assert (done.images, done.networks[-1].accuracy, done.networks[-1].agreement) == (5, None, 1.0)
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    jobs.export(student, output=tmp_path / "s.onnx", preprocessing=True, pictures=pictures)
    (logits,) = ort.InferenceSession(tmp_path / "s.onnx").run(None, {"images": pixels.contiguous().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_torch_export_needs_no_svdistill(run: Run, tmp_path: Path) -> None:
    """The program says what it is, and runs from its file alone for any batch."""
    done = jobs.export(run.path, to="torch-export", output=tmp_path)
    (file,) = done.files
    extra = {formats.ABOUT: ""}
    module = torch.export.load(file, extra_files=extra).module()
    assert json.loads(json.loads(extra[formats.ABOUT])["classes"]) == [str(digit) for digit in range(10)]
    for number in (1, 5):
        images = torch.randn(number, 1, 8, 8)
        torch.testing.assert_close(module(images).detach(), Student.load(run.path).logits(images))


def test_files_in_the_way(run: Run, student: Path, photos: Path, tmp_path: Path) -> None:
    """An earlier export is replaced; anything else stays as it is, and nothing is written beside it."""
    pictures = Pictures(images=photos)
    file = tmp_path / "student.pt2"
    file.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"student\.pt2 is there and is not an earlier export"):
        jobs.export(student, to="torch-export", output=file, pictures=pictures)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mine", "mine")
    kept = file.read_bytes()
    with pytest.raises(DataError, match="not an earlier export"):
        jobs.export(student, to="torch-export", output=file, pictures=pictures)
    assert [*tmp_path.iterdir()] == [file]
    assert file.read_bytes() == kept
    file.unlink()
    for _ in range(2):
        jobs.export(student, to="torch-export", output=file, pictures=pictures)
    copy = tmp_path / "copy.safetensors"
    for _ in range(2):
        jobs.export(student, to="safetensors", output=copy, pictures=pictures)
    assert copy.read_bytes() == student.read_bytes()
    with pytest.raises(DataError, match="not an earlier export"):
        jobs.export(run.path, to="safetensors", output=copy)
    assert copy.read_bytes() == student.read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"to": "onx"}, "no format is called 'onx'; did you mean 'onnx'"),
        ({"to": "torch-export", "int8": True}, "int8 is made of an ONNX file, not of torch-export"),
        ({"to": "safetensors", "preprocessing": True}, "holds weights, no graph for preprocessing"),
        ({"pictures": Pictures(calibrate="scans")}, r"are for int8; ask for that too \(--int8\)"),
        ({"to": "safetensors"}, "is in a safetensors file already, .*--output"),
        ({"to": "torch-export", "output": "s.onnx"}, r"s\.onnx does not end in \.pt2"),
    ],
)
def test_what_a_format_does_not_offer(student: Path, settings: dict[str, object], words: str) -> None:
    """One line says what to take instead."""
    with pytest.raises(OptionError, match=words):
        jobs.export(student, **settings)  # type: ignore[arg-type]


def test_without_real_images(student: Path) -> None:
    """A network of no data set asks for pictures."""
    with pytest.raises(DataError, match=r"compared on real images, and: .* does not say what it was .*\(--images\)"):
        jobs.export(student, to="torch-export")


def test_without_the_libraries(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the command that installs them."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OptionError, match=r"needs onnx .* pip install 'svdistill\[export\]'"):
        jobs.export(student)


class Odd(nn.Module):
    """A network that does something to its pixels first."""

    def __init__(self, odd: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.odd = odd
        self.last = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.last(self.odd(images[:, 0]))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda rows: rows.mean(1) * (2 if rows.sum() > 0 else 1), "torch.export cannot follow .*has no graph"),
        (lambda rows: rows.mean(1) + torch.zeros(2, 16), "torch.export cannot follow .*the size of its batch"),
    ],
)
def test_a_network_without_a_graph(
    student: Path, odd: Callable[[Tensor], Tensor], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that decides by its values, or fits one size of batch, is refused, and torch's pages are not shown."""
    network = dataclasses.replace(Student.load(student), network=Odd(odd).eval())
    with pytest.raises(ExportError, match=words):
        formats.make(network, "torch-export", inside=False)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_onnx_lacks(student: Path) -> None:
    """It is named, in one line; torch.export has it."""
    pytest.importorskip("onnxscript")
    network = dataclasses.replace(Student.load(student), network=Odd(torch.linalg.svdvals).eval())
    with pytest.raises(ExportError, match=r"^ONNX has no operator for torch\.linalg_svd, which .*--to torch-export$"):
        formats.make(network, "onnx", inside=False)
    images = torch.randn(4, *network.shape)
    made = formats.make(network, "torch-export", inside=False)
    torch.testing.assert_close(made.run(images), network.logits(images))


def test_another_network_is_not_taken_for_the_same() -> None:
    """Counts and differences by hand; a network that gives other values is an error."""
    before = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [1.0, 0.0, 4.0]])
    after = before + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -0.25, 0.0]])
    images = ImageSet(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("a", "b", "c"))
    runs = {"after": lambda _: after, "same": lambda _: before * (1 + 1e-6)}
    found = verify.compare(images, lambda _: before, runs, classes=images.classes)
    odd = found["after"]
    assert (odd.images, odd.agreeing, odd.right, odd.right_after) == (3, 2, 2, 1)
    assert (odd.largest_difference, odd.largest_logit) == (1.0, 4.0)
    assert odd.differing == [verify.Differing("image 1", "b", "c", 0.5)]
    with pytest.raises(ExportError, match="differ by up to 1 where the largest is 4, and 1 of 3 images"):
        verify.check_same(odd, "onnxruntime", Path("student.safetensors"))
    verify.check_same(found["same"], "onnxruntime", Path("student.safetensors"))
    broken = verify.compare(images, lambda _: before, {"nan": lambda _: before / 0}, classes=images.classes)["nan"]
    with pytest.raises(ExportError, match="not finite"):
        verify.check_same(broken, "onnxruntime", Path("student.safetensors"))


def test_pictures_are_told_by_their_files(photos: Path) -> None:
    """What is taken for another class is named as its file is."""
    images = load_flat_folder(photos, image_size=8, in_memory=0)
    flipped = {"flipped": lambda pixels: -torch.arange(2.0).expand(len(pixels), 2)}
    found = verify.compare(images, lambda pixels: torch.arange(2.0).expand(len(pixels), 2), flipped, classes="ab")
    assert found["flipped"].right is None
    names = [one.image for one in found["flipped"].differing]
    assert names == [f"{seed}.png" for seed in range(5)]


def test_a_torn_picture_is_not_counted(photos: Path, tmp_path: Path) -> None:
    """One that cannot be decoded is neither counted nor named: another one would be counted twice in its place."""
    for file in photos.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1.png").write_bytes((photos / "1.png").read_bytes()[:100])
    images = load_flat_folder(tmp_path, image_size=8, in_memory=0)
    flipped = {"flipped": lambda pixels: -torch.arange(2.0).expand(len(pixels), 2)}
    with pytest.warns(SvdistillWarning, match=r"1\.png cannot be decoded"):
        found = verify.compare(images, lambda pixels: torch.arange(2.0).expand(len(pixels), 2), flipped, classes="ab")
    assert found["flipped"].images == 4
    assert [one.image for one in found["flipped"].differing] == ["0.png", "2.png", "3.png", "4.png"]
