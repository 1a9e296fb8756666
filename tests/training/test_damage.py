"""A run whose files are damaged, missing or somebody else's resumes from what is sound, or says what is the matter."""

import json
import shutil

import pytest
import torch
from tests.trees import equal

from svdistill.errors import CheckpointError, DataError, SvdistillWarning
from svdistill.records import RunRecord

EPOCHS = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where the runs of this module lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def whole(make_run, runs):
    """A run that was never interrupted, with the checkpoints of its last two epochs and of its best."""
    folder = runs / "whole"
    if not folder.exists():
        run = make_run(name="whole")
        run.fit(epochs=EPOCHS - 1)
        shutil.copy(run.record.last, run.record.previous)
        kept = run.record.previous.read_bytes()
        make_run(name="whole").fit(epochs=EPOCHS)
        run.record.previous.write_bytes(kept)
        shutil.copytree(run.record.path, folder)
    return RunRecord(folder)


@pytest.fixture
def again(whole, make_run):
    """A copy of that run, to be damaged and resumed."""
    run = make_run(name="again")
    shutil.rmtree(run.record.path)
    shutil.copytree(whole.path, run.record.path)
    (run.record.path / "recipe.yaml").write_text("name: again\n")
    return run


def flip(file):
    """Flip a bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def same(first, second):
    """Whether two runs came to the same, but for the time that it took."""
    states = [torch.load(record.last, weights_only=True) for record in (first, second)]
    for state in states:
        del state["seconds"], state["lines"]
    lines = [
        [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in record.metrics.read()]
        for record in (first, second)
    ]
    return equal(*states) and lines[0] == lines[1]


@pytest.mark.parametrize(
    ("damaged", "missing", "source"),
    [
        (["last"], [], "previous"),
        (["last", "previous"], [], "best"),
        (["last"], ["previous"], "best"),
        ([], ["last"], "previous"),
        (["previous"], ["last"], "best"),
    ],
)
def test_the_last_checkpoint_that_is_whole(whole, again, damaged, missing, source):
    """With one line; the run ends as if nothing had been, and what was damaged is kept under another name."""
    names = {name: getattr(again.record, name) for name in ("last", "previous", "best")}
    for name in damaged:
        flip(names[name])
    for name in missing:
        names[name].unlink()
    content = None if "last" in missing else names["last"].read_bytes()
    state = "is missing" if "last" in missing else r"is damaged, and now called damaged\.pt"
    with pytest.warns(SvdistillWarning, match=rf"last\.pt {state}; resuming from {source}\.pt$") as told:
        again.fit(epochs=EPOCHS)
    assert len(told) == 1
    assert same(again.record, whole)
    if content is not None:
        assert names["last"].with_name("damaged.pt").read_bytes() == content
    if source == "previous":
        assert not names["previous"].exists()


def test_every_checkpoint_is_damaged(again):
    """It is said, and they stay where they are."""
    files = [again.record.last, again.record.previous, again.record.best]
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged or not a checkpoint; restore it, or train afresh"):
        again.fit(epochs=EPOCHS)
    assert [file.stat().st_size for file in files] == [1000] * 3


def test_a_foreign_checkpoint_is_not_passed_over(again):
    """It is whole: somebody put it there, and is told."""
    torch.save({"weights": torch.zeros(2)}, again.record.last)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this version"):
        again.fit(epochs=EPOCHS)


def test_the_best_alone_is_resumed(whole, again):
    """Where somebody removed the others: no epoch that the metrics tell of is forgotten in silence."""
    again.record.last.unlink()
    again.record.previous.unlink()
    with pytest.warns(SvdistillWarning, match=r"last\.pt is missing; resuming from best\.pt"):
        again.fit(epochs=EPOCHS)
    assert same(again.record, whole)


def test_no_checkpoint_is_left(whole, again):
    """The run begins again, and says so."""
    for path in (again.record.last, again.record.previous, again.record.best):
        path.unlink()
    with pytest.warns(SvdistillWarning, match="no checkpoint of .* is left"):
        again.fit(epochs=EPOCHS)
    assert same(again.record, whole)


def test_the_one_before_is_kept_until_the_end(make_run):
    """And removed once the last was found whole."""
    run, seen = make_run(), []

    class Watch:
        def start(self, epochs, steps, done_epochs): ...
        def step(self, *, loss, images): ...
        def finish(self): ...
        def epoch(self, metrics):
            files = [run.record.last, run.record.previous]
            seen.append([torch.load(file, weights_only=True)["epoch"] for file in files if file.exists()])

    run.fit(epochs=3, progress=Watch())
    assert seen == [[1], [2, 1], [3, 2]]
    assert not run.record.previous.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: lines[:1],
        lambda lines: [],
        lambda lines: [lines[0], lines[1].replace(":", ": 9", 1), lines[2]],
        lambda lines: [json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 2, 3)],
        lambda lines: ["nonsense"],
        lambda lines: None,
    ],
)
def test_metrics_that_disagree_are_restored(whole, again, change):
    """From the checkpoint, to the byte, with one line."""
    file = again.record.path / "metrics.jsonl"
    wanted = file.read_text()
    changed = change(wanted.splitlines(keepends=True))
    file.unlink()
    if changed is not None:
        file.write_text("".join(changed))
    with pytest.warns(SvdistillWarning, match="did not agree with the checkpoint and were restored from it") as told:
        again.fit(epochs=EPOCHS)
    assert len(told) == 1
    assert file.read_text() == wanted


def without_lines(file):
    """Let a checkpoint be one of a version that kept no copy of the metrics."""
    content = torch.load(file, weights_only=True)
    del content["lines"]
    torch.save(content, file)


def test_a_checkpoint_without_a_copy_of_the_metrics(whole, again):
    """The file's own lines are used, where they are those of the epochs done; from then on there is a copy."""
    shutil.copy(again.record.previous, again.record.last)
    without_lines(again.record.last)
    with pytest.warns(SvdistillWarning, match="carry no checksums"):
        again.fit(epochs=EPOCHS)
    assert same(again.record, whole)
    assert (
        torch.load(again.record.last, weights_only=True)["lines"] == (again.record.path / "metrics.jsonl").read_text()
    )


def test_metrics_that_cannot_be_restored(again):
    """They are refused."""
    without_lines(again.record.last)
    file = again.record.path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.warns(SvdistillWarning), pytest.raises(DataError, match=r"metrics\.jsonl, line 1, is of epoch 2"):
        again.fit(epochs=EPOCHS)


NAMES = ["model", "epoch", "accuracy", "seconds", "optimizer_name", "optimizer", "batches", "tally", "health", "random"]


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize("name", [*NAMES, "lines"])
def test_a_checkpoint_with_a_part_that_is_missing_or_of_another_kind(again, name):
    """It is refused in one line, and the network is as it was."""
    content = torch.load(again.record.last, weights_only=True)
    before = {key: value.clone() for key, value in again.distiller.state_dict().items()}
    lacking = {key: value for key, value in content.items() if key != name}
    changed = [{**content, name: value} for value in ([], {}, "x", 7, -1, None)]
    if name == "epoch":
        changed.append({**content, "epoch": -1, "lines": None})
    usable = {"accuracy": (7, -1), "seconds": (7, -1), "lines": (None,)}.get(name, ())
    for wrong in [*changed, *([] if name == "lines" else [lacking])]:
        if name in wrong and wrong[name] in usable:
            continue
        torch.save(wrong, again.record.last)
        with pytest.raises(CheckpointError) as caught:
            again.fit(epochs=EPOCHS)
        assert "\n" not in str(caught.value)
        assert equal(dict(again.distiller.state_dict()), before)


@pytest.mark.filterwarnings("ignore:files of an earlier version")
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("optimizer", "param_groups", "x"),
        ("batches", "order", None),
        ("batches", "generator", torch.zeros(3)),
        ("tally", "sums", {"loss": "x"}),
        ("health", "rows", torch.zeros(())),
        ("random", "cpu", torch.zeros(5, dtype=torch.uint8)),
    ],
)
def test_a_checkpoint_with_something_strange_inside_a_part(again, name, key, value):
    """It is refused in one line, and the network is as it was."""
    content = torch.load(again.record.last, weights_only=True)
    before = {key: value.clone() for key, value in again.distiller.state_dict().items()}
    torch.save({**content, name: {**content[name], key: value}}, again.record.last)
    with pytest.raises(CheckpointError, match="does not fit the optimizer or the data, or is not one of a run"):
        again.fit(epochs=EPOCHS)
    assert equal(dict(again.distiller.state_dict()), before)
