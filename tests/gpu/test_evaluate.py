"""Evaluation on the device against float64 on a CPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.gpu.small import Network, image_set

from svdistill import training
from svdistill.data import ImageSet, channel_statistics, standardize
from svdistill.ranks import find_ranks
from svdistill.training import evaluate
from svdistill.training.evaluate import _Tally


def network(device, *, channels_last=False):
    """Return the same network on a device."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return Network(8).to(device).to(memory_format=layout)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_accuracy_loss_and_confusion(device, precision, channels_last, there):
    """Of images that lie on the device or come from the host, in every layout and precision."""
    test = image_set(301)
    mean, std = channel_statistics(test.images)
    exact = copy.deepcopy(network("cpu")).double().eval()
    with torch.no_grad():
        logits = exact(standardize(test.images, mean, std).double())
    engine = training.Engine(device, precision, find_ranks())
    model = network(device, channels_last=channels_last)
    images = test.to(device) if there else test
    result = evaluate(engine, model, images, mean=mean, std=std, confusion=True)
    coarse = precision != "32-true"
    assert result["loss"] == pytest.approx(float(F.cross_entropy(logits, test.labels)), rel=0.02 if coarse else 1e-4)
    guessed = logits.argmax(1)
    counts = torch.zeros(3, 3).index_put((test.labels, guessed), torch.ones(301), accumulate=True)
    wrong = int((torch.tensor(result["confusion"]) - counts).abs().sum())
    assert wrong <= (20 if coarse else 2)  # an image between two classes may go either way
    right = float((guessed == test.labels).double().mean())
    assert result["accuracy"] == pytest.approx(right, abs=wrong / 301 + 1e-9)


def test_batches_are_large_on_a_gpu(device):
    """250 images on a CPU, two million pixels on a GPU."""
    few = image_set(12)
    test = ImageSet(few.images.repeat(1000, 1, 1, 1), few.labels.repeat(1000), few.classes)
    mean, std = channel_statistics(few.images)
    seen = []
    model = network(device)
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    evaluate(training.Engine(device, "32-true", find_ranks()), model, test.to(device), mean=mean, std=std)
    size = 250 if device.type == "cpu" else 2**21 // 256
    assert seen == [size] * (12000 // size) + [12000 % size] * (12000 % size > 0)


def test_nothing_waits_before_the_end(device):
    """A GPU counts batch after batch; torch makes whatever would wait for it an error."""
    test = image_set(9).to(device)
    mean, std = (one.to(device) for one in channel_statistics(image_set(9).images))
    tally = _Tally(None, network(device).eval(), mean, std, classes=3, device=device)
    with torch.inference_mode():
        tally.add(test.images, test.labels)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                tally.add(test.images, test.labels)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert int(tally.counts.sum()) == 36
