"""The diagnostics that a run writes down of its networks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svdistill.data import ImageSet
from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.jobs.diagnostics import Tapped, diagnose, write_diagnostics
from svdistill.records import RunRecord


class Net(nn.Module):
    """Two taps of chosen widths, and logits."""

    def __init__(self, *widths: int, classes: int = 3) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, widths[0], 3, padding=1)
        self.two = nn.Conv2d(widths[0], widths[1], 2, stride=2)
        self.head = nn.Linear(widths[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) to logits."""
        return self.head(self.two(torch.relu(self.one(images))).mean((2, 3)))


class Gives(nn.Module):
    """A network whose one tap gives a chosen map, whatever comes in."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.feature = feature

    def forward(self, images: Tensor) -> Tensor:
        """As many samples as there are images."""
        self.tap(self.feature[: len(images)])
        return torch.zeros(len(images), 3)


TAPS = ("one", "two")


@pytest.fixture
def images() -> Tensor:
    """A few images of noise, neither square nor standardized."""
    return torch.randn(20, 1, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nets() -> tuple[Net, Net]:
    """A student and a teacher of the same widths."""
    torch.manual_seed(1)
    return Net(5, 4).train(), Net(5, 4)


def test_spectrum_and_vectors_are_those_of_the_full_svd(images: Tensor, nets: tuple[Net, Net]) -> None:
    """LAPACK's SVD of each image's matrix gives the same fractions and the same leading vectors."""
    student, teacher = nets
    found = diagnose(Tapped(student, TAPS), Tapped(teacher, TAPS), images=images, pictures=2)
    maps = student.one(images).flatten(2).mT.double()
    _, s, v = torch.linalg.svd(maps, full_matrices=False)
    fraction = (s.square() / s.square().sum(1, keepdim=True)).mean(0)
    np.testing.assert_allclose(found["student_spectrum"][0], fraction.detach(), rtol=1e-4, atol=1e-7)
    assert np.isnan(found["student_spectrum"][1, 4:]).all()
    np.testing.assert_allclose(np.nansum(found["teacher_spectrum"], axis=1), 1, rtol=1e-5)
    _, _, goal = torch.linalg.svd(teacher.one(images).flatten(2).mT.double(), full_matrices=False)
    cosine = (v[:, :2] @ goal[:, 0, :, None])[..., 0].abs().amax(1)
    np.testing.assert_allclose(found["alignment"][0], cosine.mean().detach(), rtol=1e-4)
    assert found["student_vectors_0"].shape == (2, 5)
    agreement = (found["teacher_vectors_0"] * goal[:2, 0].detach().numpy()).sum(1)
    np.testing.assert_allclose(np.abs(agreement), 1, rtol=1e-5)
    assert student.training  # its mode came back


def test_student_alone(images: Tensor, nets: tuple[Net, Net]) -> None:
    """Without a teacher there are its spectra and vectors, and nothing of a teacher."""
    found = diagnose(Tapped(nets[0], TAPS), images=images)
    assert not [name for name in found if "teacher" in name or name == "alignment"]
    assert found["student_vectors_1"].shape == (3, 4)


def test_no_taps(images: Tensor, nets: tuple[Net, Net]) -> None:
    """A network of which no taps are known has no spectra."""
    assert diagnose(Tapped(nets[0]), images=images) == {}


def test_unequal_widths(images: Tensor) -> None:
    """Vectors of unlike length have no alignment, unless something lifts the student's maps."""
    student, teacher = Net(3, 2), Net(5, 4)
    found = diagnose(Tapped(student, TAPS), Tapped(teacher, TAPS), images=images)
    assert np.isnan(found["alignment"]).all()
    assert (found["student_vectors_0"].shape[1], found["teacher_vectors_0"].shape[1]) == (3, 5)
    lifts = nn.ModuleList([nn.Conv2d(3, 5, 1), nn.Conv2d(2, 4, 1)])
    found = diagnose(
        Tapped(student, TAPS),
        Tapped(teacher, TAPS),
        images=images,
        lift=lambda maps: [lift(m) for lift, m in zip(lifts, maps, strict=True)],
    )
    assert np.isfinite(found["alignment"]).all()
    assert found["student_vectors_0"].shape[1] == 5
    assert np.isfinite(found["student_spectrum"][0]).sum() == 3  # of its own map, not of the lifted one


@pytest.mark.parametrize(
    "feature",
    [
        torch.zeros(20, 4, 3, 3),
        torch.full((20, 4, 3, 3), torch.nan),
        torch.full((20, 4), torch.inf),
        torch.ones(20, 4, 5, 5),
        torch.ones(20, 4, 1, 1),
        torch.ones(20, 1, 5, 5),
        torch.full((20, 7, 4), 1e-30),
        torch.full((20, 7, 4), 1e30),
    ],
)
def test_degenerate_maps(feature: Tensor) -> None:
    """Zero, broken, constant, tiny and huge maps, one position, one channel: numbers or NaN, no error."""
    net, images = Gives(feature), torch.zeros(20, 1, 4, 4)
    tapped = Tapped(net, ["tap"], layout="channels_last" if feature.ndim == 3 else None)
    found = diagnose(tapped, tapped, images=images)
    broken = not feature.isfinite().all() or not feature.any()
    assert np.isnan(found["student_spectrum"]).all() == broken
    assert np.isfinite(found["student_vectors_0"]).all()
    if not broken:  # all have rank 1
        np.testing.assert_allclose(found["student_spectrum"][0, 0], 1, rtol=1e-6)
        np.testing.assert_allclose(found["alignment"], 1, rtol=1e-5)


def test_broken_images_are_left_out() -> None:
    """A mean over the images is one over those that have a spectrum."""
    feature = torch.randn(20, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = diagnose(Tapped(Gives(feature[:10]), ["tap"]), images=torch.zeros(10, 1, 4, 4))
    feature[10:, 0, 0, 0] = torch.nan
    found = diagnose(Tapped(Gives(feature), ["tap"]), images=torch.zeros(10, 1, 4, 4))
    np.testing.assert_array_equal(found["student_spectrum"], whole["student_spectrum"])


def test_tokens() -> None:
    """(B, N, D) is taken as it is, without the leading tokens that are to be dropped."""
    tokens = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(4, 1, 4, 4)
    found = diagnose(Tapped(Gives(tokens), ["tap"], drop_tokens=1), images=images)
    plain = diagnose(Tapped(Gives(tokens[:, 1:]), ["tap"], layout="channels_last"), images=images)
    np.testing.assert_array_equal(found["student_vectors_0"], plain["student_vectors_0"])


def test_errors(images: Tensor, nets: tuple[Net, Net]) -> None:
    """Unknown taps, taps of different number, and outputs that are no maps."""
    student, teacher = nets
    with pytest.raises(OptionError, match="no submodule 'three'"):
        diagnose(Tapped(student, ["three"]), images=images)
    with pytest.raises(ShapeError, match="2 student taps came with 1"):
        diagnose(Tapped(student, TAPS), Tapped(teacher, ["one"]), images=images)
    with pytest.raises(ShapeError, match="a tap gave"):
        diagnose(Tapped(Gives(torch.zeros(20, 2, 2, 2, 2)), ["tap"]), images=images)


def image_set(count: int = 90, *, side: int = 8) -> ImageSet:
    """Return images that lie class by class, as many sets do."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, side, side)
    return ImageSet(pixels.contiguous(), torch.arange(count) * 3 // count, ("a", "b", "c"))


STATISTICS = {"mean": torch.tensor([0.5]), "std": torch.tensor([0.5])}


def test_written_at_the_end_of_a_run(tmp_path, nets: tuple[Net, Net]) -> None:
    """The file has the confusion matrix, pictures of unlike classes and the spectra, and is small."""
    record = RunRecord(tmp_path)
    test = image_set(side=100)
    write_diagnostics(record, *(Tapped(net, TAPS) for net in nets), test=test, **STATISTICS)
    with np.load(record.diagnostics, allow_pickle=False) as found:
        assert found["confusion"].sum(1).tolist() == [30, 30, 30]
        assert found["labels"].tolist() == [0, 1, 2]
        assert found["images"].shape == (3, 1, 64, 64)
        assert [found["images"][i].flat[0] // 30 for i in range(3)] == [0, 1, 2]
        assert found["classes"].tolist() == ["a", "b", "c"]
        assert found["student_spectrum"].shape[0] == found["teacher_spectrum"].shape[0] == 2
    assert record.diagnostics.stat().st_size < 300_000
    assert [path.name for path in tmp_path.iterdir()] == ["insight.npz"]


def test_a_finished_training_never_fails(tmp_path, nets: tuple[Net, Net]) -> None:
    """What goes wrong is a warning, and what was found before it is kept."""
    record = RunRecord(tmp_path / "run")
    with pytest.warns(SvdistillWarning, match="incomplete"):
        write_diagnostics(record, Tapped(nets[0], ["three"]), test=image_set(4), **STATISTICS)
    with np.load(record.diagnostics) as found:
        assert sorted(found) == ["classes", "confusion", "images", "labels"]
    (tmp_path / "file").write_text("")
    with pytest.warns(SvdistillWarning, match="incomplete"):
        write_diagnostics(RunRecord(tmp_path / "file"), Tapped(nets[0]), test=image_set(4), **STATISTICS)
