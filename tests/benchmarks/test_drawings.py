"""The drawings of the method's page."""

import re
from xml.etree import ElementTree

import pytest
import torch
from benchmarks.drawings import bound, networks, relation, scene, vectors
from benchmarks.drawings.__main__ import DRAWINGS, write

from svdistill import nets, recipes
from svdistill.jobs import Tapped

QUICK = ["train.epochs=2", "teacher.overrides.train.epochs=1"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Train for two epochs, once for all tests."""
    return scene.trained(QUICK, tmp_path_factory.mktemp("runs"), 0)


@pytest.fixture(scope="module")
def files(drawn, tmp_path_factory):
    """Return the drawings of it by their names."""
    return {file.name: file for file in write(drawn, tmp_path_factory.mktemp("drawings"))}


def test_every_drawing_is_a_file_that_is_read_on_any_page(files):
    """Each is well-formed, fits a phone, has both palettes, and no colour that only one of them can show."""
    assert {*files} == {*(f"method-{name}.svg" for name in DRAWINGS), "method.png"}
    for name in DRAWINGS:
        text = files[f"method-{name}.svg"].read_text("utf-8")
        top = ElementTree.fromstring(text)
        assert (top.get("width"), top.get("role")) == ("560", "img")
        assert len(text) < 150_000
        assert {*re.findall(r"var\((--[\w-]+)\)", text)} <= {*re.findall(r"(--[\w-]+): #", text)}
        assert text.count("--ink: #") == 2
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"#(?:000000|ffffff)\b", re.sub(r"base64,[^\"]*", "", text)), name
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)]
        assert min(sizes) >= 13


def test_the_page_shows_each():
    """Nothing is drawn that the page does not have."""
    from tests.test_docs import ROOT

    page = (ROOT / "docs/method.md").read_text("utf-8")
    for name in DRAWINGS:
        assert f"](method-{name}.svg)" in page
        assert (ROOT / f"docs/method-{name}.svg").is_file()


def test_layers_are_counted_between_taps():
    """As the description of the teacher has them, and the output layer belongs to none."""
    network = nets.create("vgg-bn-teacher", num_classes=10, in_channels=1, width=0.125)
    assert networks.layers_between(network, nets.default_taps("vgg-bn-teacher")) == [2, 2, 3, 3, 2]


def test_alignment_undoes_signs_and_order():
    """Vectors that were exchanged and flipped are found again."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64))[0] for n in (20, 8))
    teacher = left @ torch.diag(torch.tensor([5.0, 3.0, 1.0]).double()) @ right.T
    student = left @ torch.diag(torch.tensor([3.0, 5.0, 1.0]).double()) @ right.T
    found = vectors.align(teacher, student)
    assert found.chosen.tolist() == [1, 0]
    assert torch.allclose(found.answers, found.teacher, atol=1e-9)


def test_the_distances_are_those_of_the_loss(drawn):
    """What stands below the relation is what the drawing of the whole method has there."""
    from svdistill.report.drawing import distances

    text = relation.draw(drawn)
    shown = re.findall(r"= ([\d.e-]+)</text>|= ([\d.e-]+)", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    expected = f"{distances(scene.pair(drawn))[relation.FRONT]:.2g}"
    assert expected in {one for pair in shown for one in pair}


def test_the_median_of_neighbours():
    """A single epoch that stands out does not show; the ends have fewer neighbours."""
    assert bound.smooth([1, 1, 1, 50, 1, 1, 1]) == [1.0] * 7


def test_the_networks_drawn_are_those_trained(drawn):
    """They are the recipe's, seen at its taps; the other run differs by the bound alone."""
    recipe = recipes.load(scene.RECIPE, QUICK)
    assert isinstance(drawn.student, Tapped)
    assert drawn.student.taps == nets.default_taps(recipe.model.name)
    assert drawn.label == "3"  # of the first test image
    weights = [sum(p.numel() for p in one.network.parameters()) for one in (drawn.teacher, drawn.student, drawn.alone)]
    assert weights[0] > weights[1] == weights[2]
    assert [line["passed"] for line in drawn.metrics if line["stage"] == 2] != [
        line["passed"] for line in drawn.published if line["stage"] == 2
    ]
    pair = scene.pair(drawn)
    assert pair.weights == (weights[0], weights[1])
    assert pair.outputs.sum() == pytest.approx(1)
    assert [tap.name for tap in pair.student][:2] == ["block1", "block2"]
    first = [[line["transfer"] for line in run if line["stage"] == 1] for run in (drawn.metrics, drawn.published)]
    assert first[0] == first[1] != []
