"""Training without the teacher: what is stored of it is made once, found again, and refused where it is stale."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svdistill import jobs, nets, recipes
from svdistill.errors import DataError, RecipeError, SvdistillWarning
from svdistill.jobs import NoCallbacks, Run
from svdistill.recipes import Recipe, build
from svdistill.recipes.images import Images, batches, load_images, noise
from svdistill.recipes.weights import load_teacher, save
from svdistill.records import RunRecord
from svdistill.teacher_cache import TeacherCache

TINY = ["model.width=0.1", "data.image_size=8", "data.train_size=20", "train.batch_size=10", "train.epochs=2"]
TINY += ["model.taps=[block1,block2]"]
SETTINGS = [*TINY, *(f"teacher.overrides.{setting}" for setting in TINY), "train.device=cpu"]
SETTINGS += ["teacher.overrides.train.epochs=1"]
HALF = torch.finfo(torch.float16).eps


class Diary(NoCallbacks):
    """Writes down what is stored and what is found."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []

    @contextmanager
    def storing(self, recipe: Recipe, images: int) -> Iterator[Any]:
        """Note how many images there are, and how many are done at a time."""
        self.entries.append(("storing", images))
        yield lambda done: self.entries.append(("done", done))

    def stored(self, folder: Path) -> None:
        """Note it."""
        self.entries.append(("stored", folder.name))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which there is the teacher."""
    runs = tmp_path_factory.mktemp("runs")
    cache("views=1", runs=runs)
    shutil.rmtree(runs / "knowledge")
    return runs


@pytest.fixture
def runs(taught: Path, tmp_path: Path) -> Path:
    """The same, of one's own."""
    return Path(shutil.copytree(taught, tmp_path / "runs"))


def cache(*overrides: str, runs: Path, name: str = "digits/svd", **options: Any) -> jobs.Stored:
    """Store what a tiny recipe needs of its teacher."""
    return jobs.cache(name, overrides=[*SETTINGS, *overrides], runs=runs, **options)


def train(*overrides: str, runs: Path, name: str = "digits/svd", **options: Any) -> Run:
    """Train by a tiny recipe."""
    return jobs.train(name, overrides=[*SETTINGS, *overrides], runs=runs, **options)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody load a trained network any more."""
    monkeypatch.setattr(nets, "load", lambda path: pytest.fail(f"{path} was loaded"))


def last(run: Run, key: str) -> float:
    """Return a figure of the last epoch."""
    return float(run.metrics[-1][key])


def test_stored_once_and_found(runs: Path) -> None:
    """The first call runs the teacher over all views, the second finds them; the numbers are those of the disk."""
    diary = Diary()
    first = cache("views=2", runs=runs, callbacks=diary)
    assert (first.images, first.views, first.taken) == (20, 2, 40)
    # k = 1: 7 and 13 channels in half precision, one singular value a tap in float32.
    widths = [np.load(path).shape[-1] for path in sorted(first.path.glob("*svd-v*.npy"))]
    assert first.bytes_an_image == sum(2 * width for width in widths) + 2 * 4
    assert first.path.parent == runs / "knowledge" / "digits" / "teacher"
    again = cache("teacher.views=2", runs=runs, callbacks=diary)
    assert (again.path, again.taken) == (first.path, 0)
    assert diary.entries == [("storing", 40), ("done", 0), ("done", 40), ("stored", first.path.name)]
    assert jobs.cache("digits/svd", overrides={**_nested(), "views": 2}, runs=runs).path == first.path


def _nested() -> dict[str, Any]:
    settings = recipes.load("digits/svd", SETTINGS)
    plain: dict[str, Any] = settings.to_dict()
    return {key: plain[key] for key in ("data", "model", "teacher", "train")}


@pytest.mark.parametrize(
    "loss", ["svd", "attention", "relational", "soft-target", "[svd,soft-target]", "[dkd,dist,similarity,pkt]"]
)
def test_training_without_the_teacher_is_training_with_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """On the same views, weights and losses agree to what half precision leaves; the teacher is not loaded."""
    name = f"loss={loss}" if loss.startswith("[") else f"loss.name={loss}"
    live = train(name, "teacher.views=2", "teacher.live=true", runs=runs)
    assert not (runs / "knowledge").exists()
    cache(name, "views=2", runs=runs)
    forget(monkeypatch)
    stored = train(name, "teacher.views=2", runs=runs)
    assert stored.path != live.path
    for key in ("loss", "transfer"):
        assert last(stored, key) == pytest.approx(last(live, key), rel=0.02), key
    assert stored.summary["train_images"] == 20
    arrays = np.load(stored.record.diagnostics)
    assert "student_spectrum" in arrays
    assert "teacher_spectrum" not in arrays


@pytest.mark.parametrize(
    "more",
    [
        ["data.augment={shift: 3, rotation: 0}", "loss.basis=teacher", "loss.name=svd"],
        # Cold, since the logits of a teacher that has hardly learnt are small.
        [
            "seed=3",
            "loss=[{name: svd, rank: 2},attention,relational,{name: soft-target, temperature: 0.1}]",
            "model.width=0.2",
        ],
    ],
)
def test_every_batch_of_training_finds_its_own(runs: Path, more: list[str]) -> None:
    """Each loss of each batch, images without labels included, is the live one; that of other views is not."""
    recipe = recipes.load("digits/svd", [*SETTINGS, "data.unlabelled.size=30", "teacher.views=3", *more])
    images, parent = load_images(recipe), recipes.teacher_of(recipe)
    (weights,) = runs.glob("digits/teacher/*/student.safetensors")
    known = TeacherCache.open(jobs.cache(recipe, runs=runs).path)
    torch.manual_seed(0)
    student = build.model(recipe, images)
    live = build.distiller(recipe, student, load_teacher(weights, images), teacher_recipe=parent)
    stored = build.distiller(recipe, student, known, teacher_recipe=parent)
    for one in (live, stored):
        torch.manual_seed(1)
        one.prepare(noise(images))
    stream, apart = batches(recipe, images), dict.fromkeys(live.losses, 0.0)
    with torch.no_grad():
        for _ in range(3):
            for batch in stream.epoch():
                assert {True, False} == set((batch.indices < 20).tolist())
                expected = live(batch.images).terms
                found = stored(batch.images, indices=batch.indices, views=batch.views).terms
                wrong = stored(batch.images, indices=batch.indices, views=(batch.views + 1) % 3).terms
                for name, term in expected.items():
                    assert found[name].item() == pytest.approx(term.item(), rel=HALF), name
                    apart[name] = max(apart[name], abs(float(wrong[name] / term) - 1))
    assert min(apart.values()) > 2 * HALF


def test_training_makes_what_is_missing_and_does_not_depend_on_who_made_it(runs: Path) -> None:
    """Bit for bit, whether the cache was there or had to be made in the same call."""
    diary = Diary()
    one = train("teacher.views=2", runs=runs, callbacks=diary)
    assert [entry for entry, _ in diary.entries] == ["storing", "done", "done"]
    two = train("teacher.views=2", runs=runs, fresh=True, callbacks=diary)
    assert diary.entries[-1][0] == "stored"
    assert one.path == two.path
    before = nets.load(next(runs.glob("digits/svd/*.*/student.safetensors"))).state_dict()
    after = two.student().state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_views_are_fewer_images(runs: Path) -> None:
    """With one view, each image comes as the same pixels in every epoch."""
    recipe = recipes.load("digits/svd", [*SETTINGS, "teacher.views=1"])
    images = load_images(recipe)
    seen = {
        (int(index), pixels.numpy().tobytes())
        for stream in [batches(recipe, images)]
        for _ in range(3)
        for batch in stream.epoch()
        for index, pixels in zip(batch.indices, batch.images, strict=True)
    }
    assert len(seen) == 20


def test_adapters_without_the_teacher(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal widths: the adapters are made from what is stored of the teacher's shapes."""
    wide = ["model.width=0.2", "teacher.views=2"]
    live = train(*wide, "teacher.live=true", runs=runs)
    cache(*wide, runs=runs)
    forget(monkeypatch)
    stored = train(*wide, runs=runs)
    assert stored.summary["adapters"] == live.summary["adapters"] != []


def test_images_without_labels(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored too, after those with labels."""
    more = ["data.unlabelled.size=30", "teacher.views=2"]
    live = train(*more, "teacher.live=true", runs=runs)
    assert cache(*more, runs=runs).images == 50
    forget(monkeypatch)
    stored = train(*more, runs=runs)
    assert last(stored, "transfer") == pytest.approx(last(live, "transfer"), rel=0.02)


def test_students_of_several_seeds(runs: Path) -> None:
    """They share a cache where they see the same images, and have their own where the seed chooses those."""
    shared = [one for one in SETTINGS if not one.startswith("data.train_size")]
    folders = [
        jobs.cache("digits/svd", overrides=[*shared, "data.train_size=null", "views=1", seed], runs=runs).path
        for seed in ("seed=0", "seed=1")
    ]
    assert folders[0] == folders[1]
    assert cache("views=1", "seed=0", runs=runs).path != cache("views=1", "seed=1", runs=runs).path


def test_what_changes_nothing_of_the_teachers_side_shares_it(runs: Path) -> None:
    """Learning rate, beta and the student's width do; rank, augmentation, views and normalization have their own."""
    path = cache("views=2", runs=runs).path
    for same in ("optimizer.lr=0.1", "loss.beta=4", "model.width=0.2", "train.epochs=1", "loss.gradient=paper"):
        assert cache("views=2", same, runs=runs).path == path, same
    others = ("loss.rank=2", "data.augment.shift=2", "views=3", "loss.basis=teacher", "loss.name=attention")
    for other in (*others, "model={mean: [0.3], std: [0.4]}"):
        assert cache("views=2", other, runs=runs).path != path, other


def test_a_teacher_that_was_trained_again(runs: Path) -> None:
    """The old cache lies where the new one is looked for: it is refused with the reason; --fresh replaces it."""
    old = cache("views=2", runs=runs)
    (weights,) = runs.glob("digits/teacher/*/student.safetensors")
    network = nets.load(weights)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    spec = nets.spec(weights)
    recipe = recipes.lineage(recipes.load("digits/svd", SETTINGS))[1]
    save(network, weights, recipe=recipe, images=load_images(recipe))
    assert nets.spec(weights) == spec
    record = RunRecord(weights.parent)
    record.finish(record.summary())  # as that of a run that came to this teacher
    for call in (cache, train):
        with pytest.raises(DataError, match=r"is of another teacher.*svdistill cache RECIPE --fresh"):
            call("teacher.views=2", runs=runs)
    new = cache("views=2", runs=runs, fresh=True)
    assert (new.path, new.taken) == (old.path, 40)
    assert train("teacher.views=2", runs=runs).finished


def test_the_same_teacher_trained_once_more(runs: Path) -> None:
    """A teacher that came out the same, to the bit, is no other: what is stored of it still serves."""
    stored = cache("views=2", runs=runs)
    recipe = recipes.lineage(recipes.load("digits/svd", SETTINGS))[1]
    jobs.train(recipe, runs=runs, fresh=True)
    assert len(list(runs.glob("digits/teacher/*/student.safetensors"))) == 2
    again = cache("views=2", runs=runs)
    assert (again.path, again.taken) == (stored.path, 0)


def test_a_teacher_whose_file_is_gone_or_cut_off(runs: Path) -> None:
    """It is made again from its run's checkpoint, to the bit, so what is stored of it still serves."""
    cache("views=2", runs=runs)
    (weights,) = runs.glob("digits/teacher/*/student.safetensors")
    kept = weights.read_bytes()
    for damage in (lambda: weights.write_bytes(kept[:-1]), weights.unlink):
        damage()
        with pytest.warns(SvdistillWarning, match="it is finished again from its last checkpoint"):
            assert cache("views=2", runs=runs).taken == 0
        assert weights.read_bytes() == kept
    weights.unlink()
    shutil.rmtree(weights.parent / "checkpoints")
    with pytest.raises(DataError, match=r"student\.safetensors is missing, and no checkpoint is left"):
        train("teacher.views=2", runs=runs)


def test_other_images_of_the_same_name(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are compared, not names."""
    cache("views=2", runs=runs)

    def changed(recipe: Recipe, **options: Any) -> Images:
        found = load_images(recipe, **options)
        if recipe.teacher is not None:
            found.train.images[0, 0, 0, 0] ^= 1  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(import_module("svdistill.jobs.train"), "load_images", changed)
    with pytest.raises(DataError, match="is of other training images"):
        cache("views=2", runs=runs)


def test_damage_is_noticed_before_training(runs: Path) -> None:
    """A file that was cut off is named, and no run is begun."""
    stored = cache("views=2", runs=runs)
    file = next(stored.path.glob("*svd-v0.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"v0\.npy is missing, too short or damaged"):
        train("teacher.views=2", runs=runs)
    assert not list(runs.glob("digits/svd/*/recipe.yaml"))
    manifest = json.loads((stored.path / "manifest.json").read_text())
    assert manifest["key"]["views"] == 2


def test_a_checkpoint_as_teacher(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is the folder's; another file of the same name is another teacher."""
    (weights,) = runs.glob("digits/teacher/*/student.safetensors")
    own = ["teacher.recipe=null", f"teacher.checkpoint={weights}", "teacher.taps=[block1,block2]"]
    base = [one for one in SETTINGS if not one.startswith("teacher.")]
    stored = jobs.cache("digits/svd", overrides=[*base, *own, "views=2"], runs=runs)
    assert stored.path.parent == runs / "knowledge" / "student"
    assert jobs.train("digits/svd", overrides=[*base, *own, "teacher.views=2"], runs=runs).finished


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ((), "teacher.views: missing; say how many views"),
        (("views=2", "teacher.live=true"), r"teacher\.live: such a recipe runs its teacher"),
        (("views=0",), r"teacher\.views: expected at least 1, got 0"),
        (
            ("views=2", "loss.name=fsp"),
            r"teacher\.views: fsp needs 156 bytes of the teacher for each view of an image",
        ),
        (("views=2", "loss=[fitnet,soft-target]"), r"teacher\.views: fitnet needs"),
        (("views=2", "data.augment={rotation: 0, shift: 0}"), r"teacher\.views: data\.augment varies nothing"),
    ],
)
def test_what_cannot_be_stored(runs: Path, overrides: tuple[str, ...], match: str) -> None:
    """Says why in one line, before anything is made."""
    before = sorted(runs.rglob("*"))
    with pytest.raises(RecipeError, match=match):
        cache(*overrides, runs=runs)
    assert sorted(runs.rglob("*")) == before


def test_no_teacher_and_views(runs: Path) -> None:
    """Settings that take the teacher away do not get one back by their views."""
    with pytest.raises(RecipeError, match="views: unknown key"):
        jobs.cache("digits/svd", overrides={"teacher": None, "views": 2}, runs=runs)


def test_a_recipe_without_a_teacher(runs: Path) -> None:
    """There is nothing to store of it."""
    with pytest.raises(RecipeError, match="teacher: digits/student has none"):
        jobs.cache("digits/student", overrides=[*TINY, "train.device=cpu"], runs=runs)


def test_fixed_views_with_a_teacher_that_cannot_be_stored(runs: Path) -> None:
    """FSP trains on fixed views with its teacher live."""
    assert train("loss.name=fsp", "teacher.views=2", "teacher.live=true", runs=runs).finished
