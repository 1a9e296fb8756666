"""What the doctor finds before a long run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from svdistill import jobs, nets
from svdistill.errors import DataError, RecipeError
from svdistill.jobs.doctor import Diagnosis, examine, remarks, trial
from svdistill.jobs.doctor.findings import CostFindings, ImageFindings, StageFindings, TapFindings, TeacherFindings
from svdistill.recipes import load
from svdistill.report.doctor import doctor_tables

SMALL = ["model.width=0.1", "data.image_size=8"]
TINY = [*SMALL, "data.train_size=40", "train.batch_size=10", "train.epochs=3", "train.device=cpu"]
HELPED = [
    *TINY,
    "model.taps=[block1,block2,classifier.relu1]",
    "teacher.taps=[block1,block2,classifier.relu2]",
    *(f"teacher.overrides.{setting}" for setting in [*SMALL, "train.epochs=2", "data.train_size=200"]),
]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST", 8)


def shown(found: Diagnosis) -> str:
    """Return what a terminal would show."""
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(doctor_tables(json.loads(json.dumps(found.to_dict()))))
    return console.export_text()


def test_a_teacher_that_is_there_and_one_that_is_not(tmp_path: Path) -> None:
    """Before the teacher is trained nothing is said of its gradients; afterwards all is, and the run is unchanged."""
    phases: list[str] = []
    before = examine("digits/svd", overrides=HELPED, runs=tmp_path, phase=phases.append)
    assert not list(tmp_path.iterdir())
    assert before.teacher is not None
    assert before.teacher.file is None
    assert before.cost.teacher_seconds > 0
    assert before.stages[0].ratio is None
    assert any("yet to be trained" in remark.found for remark in before.remarks)
    assert phases[0] == "reading recipe and images"
    assert len(phases) == 5

    jobs.train("digits/svd", overrides=HELPED, runs=tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    after = examine("digits/svd", overrides=HELPED, runs=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files

    teacher, stage = after.teacher, after.stages[0]
    assert teacher is not None
    assert teacher.same_classes
    assert teacher.same_scale
    assert teacher.measured == 797
    assert teacher.accuracy == pytest.approx(jobs.Run(Path(str(teacher.file)).parent).summary["accuracy"], abs=1e-9)
    assert after.cost.teacher_seconds == 0
    assert (stage.epochs, stage.steps, stage.tried) == (3, 4, 8)
    assert stage.ratio is not None
    assert stage.ratio > 0
    assert stage.transfer is not None
    assert stage.step_seconds > 0
    assert all(0 < tap.energy <= 1.0001 for tap in after.taps if tap.energy is not None)
    assert [tap.student_shape for tap in after.taps][-1][1:] == ()
    assert after.taps[-1].energy == pytest.approx(1)
    assert after.cost.seconds == pytest.approx(3 * stage.epoch_seconds)
    text = shown(after)
    assert "digits/teacher" in text
    assert "transfer gradient / main gradient" in text

    run = jobs.Run(Path(str(teacher.file)).parent)
    run.record.data.write_bytes(b"{")  # what training would be refused for is told before
    with pytest.raises(DataError, match=r"data\.json is damaged, so that nothing says what the run was made with"):
        examine("digits/svd", overrides=HELPED, runs=tmp_path)


def test_the_first_steps_have_the_learning_rate_of_their_epoch(tmp_path: Path) -> None:
    """A rate at which the loss rises is no fault where a warm-up begins with a hundredth of it."""
    hot = [*TINY, "data.train_size=100", "optimizer.lr=3"]  # an epoch has more steps than are tried
    found = [examine("digits/student", overrides=[*hot, *more], runs=tmp_path) for more in ([], ["train.warm_up=1"])]
    assert [any("rises" in one.found or "not finite" in one.found for one in each.remarks) for each in found] == [
        True,
        False,
    ]


def test_images_that_are_there_twice(tmp_path: Path) -> None:
    """Copies are found by content, whatever their names: across training and test, and with another label."""
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for name in "abcdefgh"}
    pixels["e"][:] = 7
    there = {"train/x": "abcd", "train/y": "efga", "test/x": "b", "test/y": "h"}
    for folder, names in there.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(pixels[name]).save(tmp_path / folder / f"{folder[-1]}{name}.png")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"data: {{name: image-folder, root: {tmp_path}, image_size: 8}}\nmodel: {{name: resnet8, width: 0.25}}\n"
        "optimizer: {name: sgd, lr: 0.01}\ntrain: {epochs: 2, batch_size: 4, device: cpu}\n"
    )
    found = examine(recipe, runs=tmp_path / "runs")
    images = found.images
    assert (images.train, images.test, images.looked_at) == (8, 2, 10)
    assert (images.in_both, images.twice, images.contradicting, images.blank) == (1, 1, 1, 1)
    wrong = [remark.found for remark in found.remarks if remark.gravity == "wrong"]
    assert wrong == ["1 of 2 test images are also among those that are trained on"]
    assert found.teacher is None
    assert found.taps == []
    assert "1 test images also trained on" in " ".join(shown(found).split())


def test_a_file_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    """An untrained teacher's file without its classes is named as such, and its accuracy as guessing."""
    torch.manual_seed(0)
    file = tmp_path / "own.safetensors"
    spec = {"name": "resnet8", "num_classes": 10, "in_channels": 1, "width": 0.25}
    network = nets.create("resnet8", num_classes=10, in_channels=1, width=0.25)
    with torch.no_grad():
        network.classifier.output.weight.zero_()
    nets.save(network, file, **spec)
    found = examine("digits/soft-target", overrides=[*TINY, f"teacher={{checkpoint: {file}}}"], runs=tmp_path)
    told = " ".join(remark.found for remark in found.remarks)
    assert "does not say what its outputs mean" in told
    assert "mean and deviation" in told
    assert "about what guessing gets with 10 classes" in told


def test_wrong_settings_are_errors(tmp_path: Path) -> None:
    """What training would refuse is refused alike."""
    with pytest.raises(RecipeError, match="loss"):
        examine("digits/svd", overrides=["loss.rank=0"], runs=tmp_path)


STAGE = StageFindings(
    epochs=1,
    steps=1,
    main=True,
    tried=1,
    first_loss=2.3,
    loss=2.2,
    transfer=1.0,
    ratio=0.5,
    clipped=0.1,
    passed=0.9,
    set_aside=0.0,
    step_seconds=0.1,
    epoch_seconds=0.1,
)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"loss": float("nan")}, "not finite"),
        ({"transfer": float("inf")}, "not finite"),
        ({"loss": 50.0}, "rises from 2.3 to 50"),
        ({"loss": 50.0, "main": False}, None),
        ({"ratio": 0.001}, "changes next to nothing"),
        ({"set_aside": 0.5}, "sets 50% of the images aside"),
        ({"passed": 0.01}, "lets 1.0% of the transfer gradient through"),
    ],
)
def test_steps(changed: dict[str, float], says: str | None) -> None:
    """Each trouble of the first steps has its words, and sound steps have none."""
    found = list(remarks.on_stages([dataclasses.replace(STAGE, **changed)], load("digits/svd"), classes=10))
    assert [says in remark.found for remark in found if says] == [True] * len(found)
    assert bool(found) == (says is not None)


def test_few_steps_are_those_of_both_stages() -> None:
    """A first stage counts: 2 steps an epoch in 30 + 60 epochs, which is few, and in 34 + 68, which is not."""
    found = ImageFindings(
        name="digits", shape=(1, 8, 8), train=50, test=797, unlabelled=0, classes=10, fewest=("0", 5), most=("1", 5),
        untrained=(), untested=(), looked_at=847, in_both=0, twice=0, contradicting=0, blank=0, bytes=0,
    )  # fmt: skip
    for epochs, said in ((60, ["50 training images in batches of 25 make 180 steps altogether"]), (68, [])):
        recipe = load("digits/svd-recommended", [f"train.epochs={epochs}"])
        assert [remark.found for remark in remarks.on_images(found, recipe)] == said


def test_other_judgements() -> None:
    """Teacher, taps and cost are judged by what was found alone."""
    recipe = load("digits/svd")
    others = TeacherFindings(name="t", file="t", accuracy=0.9, classes=5, same_classes=False, same_scale=True)
    assert not list(remarks.on_teacher(others, recipe))
    found = [remark.gravity for remark in remarks.on_teacher(others, load("digits/soft-target"))]
    assert found == ["wrong"]
    tap = TapFindings(
        student="a",
        student_shape=(1,),
        teacher="b",
        teacher_shape=(1,),
        adapted=False,
        left_out=(),
        dead=0.9,
        energy=0.1,
    )
    assert [remark.part for remark in remarks.on_taps([tap], recipe)] == ["taps", "taps"]
    # More of the student's own vectors in a first stage teach less, so what is said there is the teacher's basis.
    for method, settings, advice in (
        ("svd-recommended", [], ["raise loss.rank"]),
        ("svd-own-vectors", [], ["take loss.basis=teacher with a higher loss.rank"]),
        ("svd-own-vectors", ["loss.rank=4"], ["take loss.basis=teacher, in which", "take loss.basis=teacher with"]),
        ("svd-k4", [], ["raise loss.rank"]),
    ):
        told = [remark.advice for remark in remarks.on_taps([tap], load("digits/svd", settings, method=method))]
        of_vectors = [text for text in told if "leave this tap out" not in text]
        assert all(text.startswith(start) for text, start in zip(of_vectors, advice, strict=True)), of_vectors
    cost = CostFindings(
        device="cuda",
        precision="32-true",
        seconds=90_000,
        teacher_seconds=0,
        memory=99,
        memory_there=100,
        disk=2,
        disk_free=1,
    )
    told = " ".join(remark.advice for remark in remarks.on_cost(cost, recipe))
    assert all(word in told for word in ("--runs", "batch_size", "fewer epochs", "bf16-mixed", "teacher.views"))
