"""The drawing of the method."""

import itertools
import math

import numpy as np
import pytest
import torch
from benchmarks.drawings.scene import look
from PIL import Image

from svdistill import nets, svd_loss
from svdistill.errors import DataError, ShapeError
from svdistill.jobs.diagnostics import Tapped
from svdistill.losses.maps import channels_first
from svdistill.report import drawing
from svdistill.report.drawing import WIDTH, Pair, TapView

TAPS = ("block1", "block2", "block3")


@pytest.fixture(scope="module")
def networks():
    """Two small untrained networks and an image."""
    torch.manual_seed(0)
    made = [nets.create(f"vgg-bn-{who}", num_classes=3, in_channels=1, width=0.125) for who in ("teacher", "student")]
    return *(Tapped(one.eval(), TAPS) for one in made), torch.rand(1, 1, 16, 16)


@pytest.fixture(scope="module")
def pair(networks):
    """The two on the image, as they are drawn."""
    teacher, student, outputs = look(*networks)
    pixels = np.zeros((1, 16, 16), dtype=np.uint8)
    return Pair(pixels, teacher, student, (2_000_000, 300_000), outputs.numpy(), "seven", 8.0)


def drawn(figure):
    """Return the heat maps of a figure, by what they show, and its texts."""
    axes = figure.axes[0]
    heats = {name: [i for i in axes.images if i.get_cmap().name == name] for name in ("viridis", "cividis", "Greys")}
    return heats, axes.texts


def test_the_numbers_add_up_to_the_loss(networks, pair):
    """The distances below the arrows are, together, the transfer loss of the two networks on this image."""
    maps = []
    for tapped in networks[:2]:
        with torch.no_grad(), nets.Taps(tapped.network, TAPS) as taps:
            tapped.network(networks[2])
            maps.append(taps.collect())
    loss = svd_loss(maps[1], maps[0], reduction="sum", beta=8.0)
    assert sum(drawing.distances(pair)) == pytest.approx(float(loss), rel=1e-4)
    for shown, feature in zip(pair.teacher, maps[0], strict=True):
        assert np.allclose(shown.matrix, channels_first(feature)[0].mT.numpy())
        right = np.linalg.svd(shown.matrix)[2][0]
        assert abs(right @ shown.vector) == pytest.approx(1, abs=1e-5)


def test_the_relations_are_those_of_the_formula(pair):
    """Each relation drawn is the formula's, entry by entry, with the channels in the order of the teacher's vectors."""
    heats, texts = drawn(drawing.compose(pair))
    shown = [np.asarray(image.get_array()) for image in heats["viridis"]]
    assert len(shown) == 4
    orders = [sorted(range(len(tap.vector)), key=lambda c, v=tap.vector: v[c]) for tap in pair.teacher]
    for network, made in ((pair.teacher, shown[:2]), (pair.student, shown[2:])):
        pairs = itertools.pairwise(zip(network, orders, strict=True))
        for ((front, rows), (back, columns)), values in zip(pairs, made, strict=True):
            by_hand = [[math.exp(-((front.vector[m] - back.vector[n]) ** 2) / 8) for n in columns] for m in rows]
            assert np.allclose(values, by_hand, atol=1e-12)
    assert [len(heats["Greys"]), len(heats["cividis"])] == [6, 6]
    words = [text.get_text() for text in texts]
    for word in (*TAPS, "64 × 8", "seven", "Teacher", "Student", "no label", "2 million", "0.3 million"):
        assert any(word in text for text in words), word
    assert sum("½ Σ" in text for text in words) == 2


@pytest.mark.parametrize("taps", [2, 5, 6])
def test_no_text_leaves_the_drawing_or_overlaps_another(pair, taps):
    """However many taps there are, all that is written can be read at a width of 900 pixels."""
    many = [[views[i % 3] for i in range(taps)] for views in (pair.teacher, pair.student)]
    named = [[*own[:-1], own[-1]._replace(name="last hidden\nfeatures")] for own in many]
    figure = drawing.compose(pair._replace(teacher=named[0], student=named[1]))
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
        assert text.get_fontsize() / 0.72 >= 12, text
    for (a, first), (b, second) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not first.overlaps(second), (a, b)


def test_a_file_of_twice_the_width_is_written(pair, tmp_path):
    """The file has two pixels for each on the page; a place that cannot be is one line."""
    drawing.draw_method(pair, tmp_path / "method.png")
    assert Image.open(tmp_path / "method.png").size[0] == 2 * WIDTH
    assert [file.name for file in tmp_path.iterdir()] == ["method.png"]
    with pytest.raises(DataError, match=r"cannot write the drawing .*; choose another file"):
        drawing.draw_method(pair, tmp_path / "method.png" / "method.png")


def test_a_pair_that_does_not_fit_is_refused(pair, tmp_path):
    """One tap has nothing to relate to, unequal widths have no common order, and too many overlap."""
    narrow = [TapView("a", np.ones((2, 3)), np.ones(3)) for _ in pair.student]
    for teacher, student in (
        (pair.teacher[:1], pair.student[:1]),
        (pair.teacher, narrow),
        ([*pair.teacher] * 3, [*pair.student] * 3),
    ):
        with pytest.raises(ShapeError, match="two to 6 of equal widths; draw a pair that needs no adapters"):
            drawing.draw_method(pair._replace(teacher=teacher, student=student), tmp_path / "method.png")
