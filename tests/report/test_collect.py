"""Finding, reading and grouping runs."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.report.runs import LOSSES, finish_again, make_comparison, make_run

from svdistill import recipes
from svdistill.errors import DataError
from svdistill.records import RunRecord
from svdistill.report import collect as module
from svdistill.report import page
from svdistill.report.collect import Collection, Group, Key, collect, read
from svdistill.runs import flat, method_of


def only(found: Collection) -> dict[str, Group]:
    """Return the methods of the one regime that there is."""
    assert len(found.regimes) == 1
    return {group.key.method: group for group in found.regimes[0].groups}


def only_groups(found: Collection) -> Sequence[Group]:
    """Return the groups of the one regime that there is."""
    assert len(found.regimes) == 1
    return found.regimes[0].groups


def test_groups_methods_and_seeds(tmp_path: Path) -> None:
    """All runs of a method are one group, the teacher is told apart, and gains are those of common seeds."""
    make_comparison(tmp_path)
    found = collect([tmp_path])
    groups = only(found)
    assert list(groups) == ["alone", "soft-target", "svd", "svd-k2", "svd+soft-target"]
    assert [run.seed for run in groups["svd"].runs] == [0, 1, 2]
    assert [run.name for run in found.teachers] == ["bags/teacher"]
    assert groups["alone"].gain is None
    gain = groups["svd-k2"].gain
    assert gain is not None
    assert gain.mean == pytest.approx(3)
    assert gain.low == pytest.approx(3)
    assert len(found.runs) == 16
    assert found.left_out == []


def test_gain_takes_the_seeds_that_both_have(tmp_path: Path) -> None:
    """A seed that only one of the two has does not count; a single one has no interval."""
    make_run(tmp_path, "alone", 1)
    for seed in (0, 1, 2):
        make_run(tmp_path, "svd", seed)
    gain = only(collect([tmp_path]))["svd"].gain
    assert gain is not None
    assert (gain.mean, gain.low, gain.high) == (pytest.approx(2), None, None)


def test_one_run_brings_its_teacher(tmp_path: Path) -> None:
    """The teacher that a run learned from is found beside it, by the digest of its weights."""
    make_run(tmp_path, "teacher")
    other = make_run(tmp_path, "teacher", 1)
    (other / "student.safetensors").write_bytes(b"others")
    finish_again(other)
    run = make_run(tmp_path, "svd")
    assert [teacher.seed for teacher in collect([run]).teachers] == [0]
    assert [path for path, _ in collect([tmp_path]).left_out] == [str(other)]


def test_a_teacher_by_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """Its runs are called after the file; it is not taken for a student alone of more labels."""
    make_run(tmp_path, "teacher", name="own-teacher")
    make_run(tmp_path, "alone")
    run = make_run(tmp_path, "svd", teacher={"recipe": str(tmp_path / "own teacher.yaml"), "overrides": {}})
    found = collect([tmp_path])
    assert list(only(found)) == ["alone", "svd"]
    assert [one.name for one in found.teachers] == ["own-teacher"]
    (tmp_path / "bags" / "teacher").rename(tmp_path / "own-teacher")
    assert [one.name for one in collect([run]).teachers] == ["own-teacher"]


def test_a_teacher_alone_is_a_run_like_any_other(tmp_path: Path) -> None:
    """Without students it is what the report is about."""
    make_run(tmp_path, "teacher")
    found = collect([tmp_path])
    assert list(only(found)) == ["alone"]
    assert not found.teachers


def test_regimes(tmp_path: Path) -> None:
    """Numbers of labelled images are kept apart, in order, and each has its own baseline."""
    for size in (4000, 500):
        make_run(tmp_path, "alone", size=size)
        make_run(tmp_path, "svd", size=size)
    make_run(tmp_path, "svd", size=500, epochs=3)
    found = collect([tmp_path])
    assert [regime.train_images for regime in found.regimes] == [500, 500, 4000]
    assert [dict(regime.conditions)["train.epochs"] for regime in found.regimes] == [3, 6, 6]
    assert [regime.groups[-1].gain is None for regime in found.regimes] == [True, False, False]


def test_settings_that_go_together(tmp_path: Path) -> None:
    """What tells nothing more apart is not among the conditions, but is known."""
    for width, epochs in ((0.5, 3), (1.0, 6)):
        make_run(tmp_path, "svd", model={"name": "small", "width": width}, epochs=epochs)
    found = collect([tmp_path])
    assert [regime.conditions for regime in found.regimes] == [(("model.width", 0.5),), (("model.width", 1.0),)]
    assert [regime.also for regime in found.regimes] == [(("train.epochs", 3),), (("train.epochs", 6),)]


def test_what_a_network_of_one_s_own_is_made_with_tells_regimes_apart(tmp_path: Path) -> None:
    """Each mapping of a list counts, and lists of lists do."""
    stages: list[Any] = [[{"w": 8}, {"w": 16}], [{"w": 32}, {"w": 16}], [{"w": 8}], [{"w": 8, "d": 2}]]
    stages += [[[8, 1], [16, 2]], [{"w": 8}, 16]]
    for made_with in stages:
        make_run(tmp_path, "alone", model={"name": "own:Net", "arguments": {"stages": made_with}})
    found = collect([tmp_path])
    assert (len(found.regimes), found.left_out) == (len(stages), [])
    first = flat({"model": {"arguments": {"stages": stages[0]}}})
    assert first == {"model.arguments.stages": ("{w: 8}", "{w: 16}")}
    assert flat({"model": {"arguments": {"stages": stages[4]}}}) == {"model.arguments.stages": ((8, 1), (16, 2))}


def test_sets_of_one_name_are_told_apart_by_their_images(tmp_path: Path) -> None:
    """Files of one's own under a known name are another set; a copy elsewhere is the same."""
    data = {"name": "bags", "train_size": 1000, "unlabelled": {"name": "rest", "root": None, "size": None}}
    for seed, (root, pixels) in enumerate((("a", "1"), ("b", "2"), ("c", "1"))):
        path = make_run(tmp_path, "svd", seed, data={**data, "root": root})
        made_with = {"train": f"{seed}", "statistics": pixels, "test": "t", "unlabelled": f"the rest of seed {seed}"}
        (path / "data.json").write_text(json.dumps({"pixels": made_with}))
        finish_again(path)
    found = collect([tmp_path])
    assert [len(regime.groups[0].runs) for regime in found.regimes] == [2, 1]
    assert [dict(regime.conditions) for regime in found.regimes] == [{"data.root": "a"}, {"data.root": "b"}]


def test_variants_of_a_method(tmp_path: Path) -> None:
    """Settings of the loss tell groups of one method apart and are no regime; one of a single value is not named."""
    make_run(tmp_path, "alone")
    for beta in (4.0, 8.0):
        make_run(tmp_path, "svd", loss={"name": "svd", "rank": 1, "beta": beta})
    make_run(tmp_path, "soft-target", optimizer={"name": "sgd", "lr": 0.2})
    found = collect([tmp_path])
    keys = [group.key for group in found.regimes[0].groups]
    betas = [Key("svd", (("loss.beta", beta),)) for beta in (4.0, 8.0)]
    assert keys == [Key("alone"), Key("soft-target"), *betas]
    assert len(found.regimes) == 1


def test_with_and_without_unlabelled_images(tmp_path: Path) -> None:
    """They are two variants of a method, beside the same student alone, which can have none; neither is left out."""
    make_run(tmp_path, "alone", data={"name": "bags", "train_size": 1000, "unlabelled": None})
    for unlabelled in (None, {"name": "rest", "size": None}):
        make_run(tmp_path, "svd", data={"name": "bags", "train_size": 1000, "unlabelled": unlabelled})
    found = collect([tmp_path])
    assert found.left_out == []
    assert [group.key.variant for regime in found.regimes for group in regime.groups] == [
        (),
        (("data.unlabelled.name", None),),
        (("data.unlabelled.name", "rest"),),
    ]
    assert all(group.gain is not None for group in found.regimes[0].groups[1:])


def test_bounds_of_a_first_stage_are_variants_of_a_method(tmp_path: Path) -> None:
    """The student alone has one stage, so that it stands beside each of them, whichever its recipe names."""
    make_run(tmp_path, "alone", train={"epochs": 6, "first_stage": 0, "first_stage_norm": 1.0})
    for norm in (1.0, 3.0):
        make_run(tmp_path, "svd", train={"epochs": 6, "first_stage": 3, "first_stage_norm": norm})
    groups = only_groups(collect([tmp_path]))
    assert [group.key.variant for group in groups[1:]] == [
        (("train.first_stage_norm", 1.0),),
        (("train.first_stage_norm", 3.0),),
    ]
    assert all(group.gain is not None for group in groups[1:])


def note_images(run: Path, **pixels: str) -> None:
    """Write down of which images a run is."""
    noted = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**noted, "shapes": [[9, 3, 8, 8]], "pixels": pixels}))
    finish_again(run)


def test_folders_of_images_are_data_sets(tmp_path: Path) -> None:
    """All are called image-folder: what is in them counts, so a copy is the same, and changed images are others."""
    for method, root, images in (
        ("alone", "/pets", "1"),
        ("svd", "/copy", "1"),
        ("svd-k2", "/flowers", "2"),
        ("soft-target", "/pets", "3"),
    ):
        run = make_run(tmp_path, method, data={"name": "image-folder", "root": root, "train_size": None})
        note_images(run, train="same", test=images)
    found = collect([tmp_path])
    groups = {regime.conditions: [group.key.method for group in regime.groups] for regime in found.regimes}
    assert groups == {
        (("data.root", "/flowers"),): ["svd-k2"],
        (("data.root", "/pets"),): ["alone", "svd"],
        (("data.root", "/pets with other images (2)"),): ["soft-target"],
    }
    assert [group.gain is None for regime in found.regimes for group in regime.groups] == [True, True, False, True]


def test_folders_of_an_older_version_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    """Where nothing says what is in them, the path must do; of other data sets it only says where they lie."""
    for root in ("/pets", "/flowers"):
        make_run(tmp_path, "svd", data={"name": "image-folder", "root": root, "train_size": None})
        make_run(tmp_path, "alone", data={"name": "bags", "root": root, "train_size": None})
    assert len(collect([tmp_path]).regimes) == 3


def test_folders_of_unlabelled_images_are_variants_of_a_method(tmp_path: Path) -> None:
    """The student alone, which has none, is what each is compared with."""
    make_run(tmp_path, "alone")
    for root in ("/one", "/two"):
        unlabelled = {"name": "image-folder", "root": root, "size": None}
        run = make_run(tmp_path, "svd", data={"name": "bags", "train_size": 1000, "unlabelled": unlabelled})
        note_images(run, train="1", test="1", unlabelled=root)
    groups = only_groups(collect([tmp_path]))
    assert [group.key.variant for group in groups[1:]] == [
        (("data.unlabelled.root", "/one"),),
        (("data.unlabelled.root", "/two"),),
    ]
    assert all(group.gain is not None for group in groups[1:])


def test_runs_of_an_older_version(tmp_path: Path) -> None:
    """A setting that they do not know does not count as a difference, and their method is told from the loss."""
    make_run(tmp_path, "svd", 0, train={"epochs": 6, "first_stage": 0, "evaluate_every": 1}, summary={"method": "svd"})
    make_run(tmp_path, "svd", 1, train={"epochs": 6})
    assert [run.seed for run in only(collect([tmp_path]))["svd"].runs] == [0, 1]


def test_twice_the_same(tmp_path: Path) -> None:
    """A run that is named twice counts once; another of the same settings and seed is left out and said so."""
    run = make_run(tmp_path / "one", "svd")
    copy = make_run(tmp_path / "two", "svd")
    assert len(collect([run, tmp_path / "one"]).runs) == 1
    found = collect([run, copy])
    assert len(found.runs) == 1
    assert found.left_out == [(str(copy), f"has the same settings and seed as {run}")]


def test_runs_that_were_set_aside_are_passed_over(tmp_path: Path) -> None:
    """--fresh renames a run; only its successor counts."""
    run = make_run(tmp_path, "svd")
    shutil.copytree(run, run.with_name(f"{run.name}.20260102-030405"))
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert found.left_out == []


@pytest.mark.parametrize(
    ("loss", "stage", "method"),
    [
        (None, 0, "alone"),
        ({"name": "svd", "rank": 1}, 0, "svd"),
        ({"name": "svd", "rank": 4}, 0.25, "svd-k4-two-stage"),
        ({"name": "svd", "rank": 2, "preset": "poster"}, 0, "svd-poster"),
        ({"name": "svd", "rank": 1, "preset": "poster"}, 0, "svd-k1-poster"),
        ({"name": "svd", "rank": 4, "preset": "teacher-basis", "basis": "teacher"}, 0, "svd-k4-teacher-basis"),
        (
            {"name": "svd", "preset": "poster", "basis": "teacher", "clip": "own_norm"},
            0,
            "svd-teacher-basis-poster-own-norm",
        ),
        ([{"name": "svd", "rank": 1}, {"name": "soft-target"}], 0, "svd+soft-target"),
        ([], 0, "alone"),
    ],
)
def test_method_of_a_recipe(loss: Any, stage: float, method: str) -> None:
    """The word that a summary of today writes down."""
    assert method_of({"loss": loss, "train": {"first_stage": stage}}) == method
    assert method_of({"loss": loss}) == method.removesuffix("-two-stage")


@pytest.mark.parametrize("method", recipes.methods())
def test_every_method_is_called_the_same_before_and_after_its_end(method: str) -> None:
    """A run that has not ended has no summary, which has the recipe's own word."""
    recipe = recipes.load("digits/svd", method=method)
    assert method_of(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe.method


def test_nothing_there(tmp_path: Path) -> None:
    """A missing path, an empty folder, a foreign file and no path at all are one line each."""
    (tmp_path / "note.txt").write_text("hello")
    for path, message in (
        (tmp_path / "missing", "there is no"),
        (tmp_path, "holds no run"),
        (tmp_path / "note.txt", "is not a comparison"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            collect([path])
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no run is named"):
        collect([])


def test_half_written(tmp_path: Path) -> None:
    """An unfinished run is refused where it is named, and left out of a folder that has others."""
    unfinished = make_run(tmp_path, "svd", 1, finished=False)
    with pytest.raises(DataError, match="has not finished"):
        collect([unfinished])
    with pytest.raises(DataError, match=r"holds no finished run: .* has not finished"):
        collect([tmp_path])
    make_run(tmp_path, "svd", 0)
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert found.left_out == [(str(unfinished), "has not finished")]


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.yaml", "a: ["),
        ("summary.json", "{"),
        ("summary.json", '{"accuracy": 0.5}'),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", "nonsense\n"),
        ("metrics.jsonl", ""),
    ],
)
def test_damaged(tmp_path: Path, name: str, content: str) -> None:
    """A damaged run is refused where it is named, and left out of a folder that has others."""
    run = make_run(tmp_path, "svd")
    (run / name).write_text(content)
    with pytest.raises(DataError, match="svd"):
        read(run)
    make_run(tmp_path, "alone")
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert "cannot be read" in found.left_out[0][1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"nonsense"])
def test_damaged_diagnostics(tmp_path: Path, content: bytes) -> None:
    """Without what the networks look like inside there is still a run to tell about."""
    run = make_run(tmp_path, "svd")
    whole = (run / "insight.npz").read_bytes()
    for damage in (content, whole[: len(whole) // 2], whole[:200] + bytes(200) + whole[400:]):
        (run / "insight.npz").write_bytes(damage)
        assert "has changed since the run finished" in read(run).damage
        finish_again(run)
        assert isinstance(dict(read(run).diagnostics), dict)
    (run / "insight.npz").write_bytes(content)
    finish_again(run)
    assert read(run).diagnostics == {}


def test_comparison(tmp_path: Path) -> None:
    """A comparison names its runs, relative to its own folder; what failed or has not begun is left out."""
    make_comparison(tmp_path / "runs", seeds=1, methods=("alone", "svd"))
    make_run(tmp_path / "runs", "soft-target", 0)
    failed = make_run(tmp_path / "runs", "svd", 1, finished=False)
    folders = [file.parent for file in sorted((tmp_path / "runs").rglob("summary.json")) if "soft" not in str(file)]
    runs = [{"folder": f"../runs/{path.relative_to(tmp_path / 'runs')}", "state": "finished"} for path in folders]
    runs.append(
        {"folder": f"../runs/{failed.relative_to(tmp_path / 'runs')}", "state": "failed", "error": "loss is NaN"}
    )
    runs.append({"folder": "../runs/bags/svd/9-nothing", "state": "new"})
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "comparison.json"
    file.write_text(json.dumps({"runs": runs}))
    found = collect([file])
    assert list(only(found)) == ["alone", "svd"]
    assert [reason for _, reason in found.left_out] == ["failed (loss is NaN)", "has not begun"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"rows": []}', '{"runs": [1]}', '{"runs": []}', '{"runs": [{"folder": "x"}]}']
)
def test_foreign_comparison(tmp_path: Path, content: str) -> None:
    """A file of something else, or a comparison of which nothing is there."""
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(DataError, match=r"is not a comparison|names no run"):
        collect([tmp_path / "comparison.json"])


def test_every_made_up_method_is_what_its_recipe_says() -> None:
    """The tests' own runs are called as a training would call them."""
    assert [method_of({"loss": loss}) for loss in LOSSES.values()] == list(LOSSES)


def test_a_long_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every n-th of the epochs after which it was evaluated is kept, and the last; the page says so."""
    monkeypatch.setattr(module, "MAX_EPOCHS", 4)
    lines: list[dict[str, Any]] = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 14)]
    for line in (*lines[2::3], lines[-1]):
        line["accuracy"] = line["epoch"] / 20
    run = make_run(tmp_path, epochs=13, metrics=lines, train={"epochs": 13, "evaluate_every": 3})
    found = read(run)
    assert found.metrics["epoch"].tolist() == [6, 12, 13]
    assert found.metrics["accuracy"].tolist() == [0.3, 0.6, 0.65]
    assert "every n-th is drawn" in page.render(collect([run]))
    monkeypatch.undo()
    assert read(run).metrics["epoch"].tolist() == list(range(1, 14))
    assert "every n-th is drawn" not in page.render(collect([run]))


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("summary.json", "[" * 100_000, "nested more than 32 deep"),
        ("summary.json", '{"accuracy": 1e999}', "lacks accuracy, best_accuracy"),
        ("recipe.yaml", "a: &a [*a]", "stands inside what it stands for"),
        ("recipe.yaml", "name: x\nteacher: [1]\n", "teacher has no settings of its own"),
        ("recipe.yaml", "name: [x]\n", "name is not text"),
        ("recipe.yaml", 'name: "a\\0b"\n', "name holds a NUL character"),
        ("recipe.yaml", "name: x\nloss: {name: svd, rank: 0}\n", "a loss's rank is not a number from 1"),
        ("recipe.yaml", "data: {classes: [[a]]}\n", "classes is a list of lists"),
        ("metrics.jsonl", '{"epoch": ' + "9" * 5000 + "}\n", "a number of 5000 digits"),
    ],
)
def test_a_damaged_run_beside_others(file: str, content: str, reason: str, tmp_path: Path) -> None:
    """It is left out with its reason, and the others are reported on."""
    make_run(tmp_path, "alone")
    damaged = make_run(tmp_path, "svd")
    # As an earlier version wrote it: what is damaged gets beyond the checksums.
    (damaged / "summary.json").write_text(json.dumps(RunRecord(damaged).summary()))
    (damaged / file).write_text(content)
    found = collect([tmp_path])
    assert [run.name for run in found.runs] == ["bags/alone"]
    ((path, why),) = found.left_out
    assert path == str(damaged)
    assert reason in why
    assert "\n" not in why


@pytest.mark.parametrize("name", ["recipe.yaml", "data.json", "insight.npz"])
def test_what_changed_since_the_run_ended(tmp_path: Path, name: str) -> None:
    """It is told, though it reads well: a letter of a name, a blank, a byte behind the arrays."""
    make_run(tmp_path, "alone")
    run = make_run(tmp_path, "svd")
    content = (run / name).read_bytes()
    (run / name).write_bytes(content.replace(b"made up", b"made UP") if name == "recipe.yaml" else content + b" ")
    found = collect([tmp_path])
    assert len(found.runs) == (2 if name == "insight.npz" else 1)
    ((path, why),) = found.left_out
    assert path == str(run / name if name == "insight.npz" else run)
    assert "has changed since the run finished" in why


def test_damaged_diagnostics_are_told(tmp_path: Path) -> None:
    """The run is reported on, and what is missing of it is listed."""
    run = make_run(tmp_path, "svd")
    (run / "insight.npz").write_bytes(b"PK")
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert [path for path, _ in found.left_out] == [str(run / "insight.npz")]
