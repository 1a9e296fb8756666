"""Tests of evaluation against counts made by hand."""

import pytest
import torch
import torch.nn.functional as F
from tests.waiting import DEVICE, nothing_waits
from torch import nn

from svdistill.data import Files, FileSet, channel_statistics, standardize
from svdistill.errors import DataError, ShapeError
from svdistill.training import evaluate, launch
from svdistill.training.evaluate import _Tally


@pytest.fixture
def parts(stand_in):
    """A network, images and their statistics."""
    torch.manual_seed(0)
    test = stand_in.image_set(31)
    mean, std = channel_statistics(test.images)
    return stand_in.network(), test, {"mean": mean, "std": std}


def by_hand(model, test, mean, std):
    """All images at once, in eval mode."""
    with torch.no_grad():
        logits = model.eval()(standardize(test.images, mean, std))
    right = (logits.argmax(1) == test.labels).double().mean().item()
    return right, F.cross_entropy(logits, test.labels).item(), logits.argmax(1)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_accuracy_and_loss_are_those_of_all_images(parts, engine, batch_size):
    """Whatever the batches, the last one smaller or not."""
    model, test, statistics = parts
    result = evaluate(engine, model, test, batch_size=batch_size, **statistics)
    accuracy, loss, _ = by_hand(model, test, **statistics)
    assert result.keys() == {"accuracy", "loss"}
    assert result["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)


def test_without_an_engine(parts, engine):
    """The same, where the images are."""
    model, test, statistics = parts
    assert evaluate(None, model, test, **statistics) == evaluate(engine, model, test, **statistics)


def test_confusion_counts_true_classes_in_rows(parts):
    """Each entry by hand."""
    model, test, statistics = parts
    counts = evaluate(None, model, test, confusion=True, batch_size=8, **statistics)["confusion"]
    guesses = by_hand(model, test, **statistics)[2]
    expected = [[int(((test.labels == i) & (guesses == j)).sum()) for j in range(3)] for i in range(3)]
    assert counts == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_and_nothing_changes(parts, training):
    """Batch norm's statistics stay, and so do torch's random numbers."""
    model, test, statistics = parts
    model.train(training)
    before, random = model[0][1].running_mean.clone(), torch.get_rng_state()
    evaluate(None, model, test, **statistics)
    assert model.training is training
    assert torch.equal(model[0][1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_with_other_classes_is_refused(parts):
    """And the mode comes back also then."""
    _, test, statistics = parts
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(ShapeError, match=r"logits have shape \(31, 5\), expected \(B, 3\)"):
        evaluate(None, model, test, **statistics)
    assert model.training


def test_in_mixed_precision_the_loss_is_float32_at_least(parts):
    """bfloat16 logits are not summed as such."""
    model, test, statistics = parts
    mixed = evaluate(launch(device="cpu", precision="bf16-mixed", seed=0), model, test, **statistics)
    assert mixed["loss"] == pytest.approx(by_hand(model, test, **statistics)[1], rel=2e-2)


def test_a_batch_is_counted_without_waiting():
    """A GPU is asked for nothing before all batches are through."""
    with nothing_waits():
        layers = nn.Conv2d(1, 2, 3, device=DEVICE), nn.Flatten(), nn.Linear(72, 3, device=DEVICE)
        mean, std = torch.rand(1, device=DEVICE), torch.rand(1, device=DEVICE)
        tally = _Tally(None, nn.Sequential(*layers), mean, std, classes=3, device=torch.device(DEVICE))
        images = torch.empty(5, 1, 8, 8, dtype=torch.uint8, device=DEVICE)
        tally.add(images, torch.empty(5, dtype=torch.int64, device=DEVICE))
        assert tally.sums.device.type == tally.counts.device.type == DEVICE


def test_images_without_labels_are_refused(parts):
    """There is nothing to measure."""
    model, test, statistics = parts
    with pytest.raises(DataError, match="no labels"):
        evaluate(None, model, test.unlabelled(), **statistics)


def test_images_on_disk_are_measured_like_those_in_memory(parts, tmp_path):
    """Also where worker processes read them."""
    from PIL import Image

    model, test, statistics = parts
    count = 3 * len(test)
    for i in range(count):
        Image.fromarray(test.images[i % len(test), 0].numpy()).save(tmp_path / f"{i}.png")
    labels = test.labels.repeat(3)
    files = Files(tmp_path, [f"{i}.png" for i in range(count)])
    streamed = FileSet(files, torch.arange(count), labels, test.classes, 8, 1, workers=2)
    expected = evaluate(None, model, streamed.loaded("reading"), batch_size=31, confusion=True, **statistics)
    assert evaluate(None, model, streamed, batch_size=31, confusion=True, **statistics) == expected
    assert expected["accuracy"] == pytest.approx(evaluate(None, model, test, **statistics)["accuracy"], rel=1e-6)
