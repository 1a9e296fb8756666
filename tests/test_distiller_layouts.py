"""Tests of the distiller on tokens, on tokens beside maps, and on maps of any size."""

import pytest
import torch
from torch import nn

from svdistill.distiller import Adapted, Distiller
from svdistill.errors import ShapeError
from svdistill.losses import (
    AttentionLoss,
    FitNetLoss,
    FSPLoss,
    RelationalLoss,
    SoftTargetLoss,
    SVDLoss,
)
from tests.distillers import IMAGES, TAPS, Recorder, network


class Tokens(nn.Module):
    """A small vision transformer: patches of 2 × 2, a class token in front, two layers."""

    def __init__(self, width, image_size=8, extra=1):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, extra, width))
        self.place = nn.Parameter(0.1 * torch.randn(1, extra + (image_size // 2) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        """(B, 1, H, W) to (B, 3)."""
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.place
        return self.head(self.encoder(tokens)[:, 0])


LAYERS = ("encoder.layers.0", "encoder.layers.1")


def transformers(**options):
    """A narrow student and a wide teacher with a class token each."""
    torch.manual_seed(3)
    options = {"student_drop_tokens": 1, "teacher_drop_tokens": 1, "loss": Recorder("maps"), **options}
    student, teacher = options.pop("networks", None) or (Tokens(8), Tokens(12))
    return Distiller(student, teacher, student_taps=LAYERS, teacher_taps=LAYERS, **options)


@pytest.mark.parametrize(("drop", "tokens"), [((1, 1), (16, 16)), ((0, 1), (17, 16)), ((2, 0), (15, 17))])
def test_class_tokens_are_left_out_of_the_maps(drop, tokens):
    """As many as said, of each network by itself, from the front."""
    module = transformers(student_drop_tokens=drop[0], teacher_drop_tokens=drop[1])
    given = []
    module.losses["transfer"].compare = lambda student, teacher: given.extend([student, teacher]) or (IMAGES.sum(), {})
    whole = []
    handle = module.student.encoder.layers[0].register_forward_hook(lambda *args: whole.append(args[2]))
    module(IMAGES)
    handle.remove()
    student, teacher = given
    assert [m.shape for m in student] == [(2, tokens[0], 8)] * 2
    assert [m.shape for m in teacher] == [(2, tokens[1], 12)] * 2
    assert torch.equal(student[0], whole[0][:, drop[0] :])


def test_transformers_of_unequal_width_learn_from_each_other():
    """Adapters on tokens, class tokens dropped: a few steps halve the transfer loss and reach the first layer."""
    module = transformers(loss={"svd": SVDLoss(), "attention": AttentionLoss(), "fitnet": FitNetLoss()})
    assert module.prepare(IMAGES) == tuple(Adapted(layer, 8, 12) for layer in LAYERS)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    values = []
    for _ in range(30):
        output = module(IMAGES)
        output.transfer.backward()
        values.append({name: float(term.detach()) for name, term in output.terms.items()})
        reached = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    assert "student.patches.weight" in reached
    assert values[-1]["fitnet"] < values[0]["fitnet"] / 2
    assert values[-1]["svd"] < values[0]["svd"] / 2


def all_losses():
    """Every loss that reads maps, and one that reads logits."""
    return {
        "svd": SVDLoss(),
        "basis": SVDLoss(basis="teacher"),
        "fsp": FSPLoss(),
        "fitnet": FitNetLoss(),
        "attention": AttentionLoss(),
        "relational": RelationalLoss(),
        "soft": SoftTargetLoss(),
    }


def reaches_the_student(module, images):
    """Check that every term is finite and has a finite gradient that reaches the student's first layer."""
    output = module(images)
    first = next(module.student.parameters())
    for name, term in output.terms.items():
        (gradient,) = torch.autograd.grad(term, first, retain_graph=True)
        assert term.isfinite(), name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    return output


def test_a_teacher_of_tokens_helps_a_student_of_maps():
    """Sixteen tokens lie on the 4 × 4 grid of the student's second map; the 6 × 6 of the first is pooled to it."""
    torch.manual_seed(0)
    module = Distiller(
        network(), Tokens(6), loss=all_losses(), student_taps=("0", "1"), teacher_taps=LAYERS, teacher_drop_tokens=1
    )
    assert module.prepare(IMAGES) == (Adapted("0", 4, 6), Adapted("1", 4, 6))
    images = torch.cat([IMAGES, 1 - IMAGES[:1]])  # of two images there is but one relation
    assert reaches_the_student(module, images).terms.keys() == all_losses().keys()


def test_tokens_without_a_grid_are_refused_with_what_to_do():
    """Seventeen tokens, where the class token was forgotten, are not a square."""
    options = {"student_taps": ("0", "1"), "teacher_taps": LAYERS}
    module = Distiller(network(), Tokens(4), loss=AttentionLoss(), **options)
    with pytest.raises(ShapeError, match=r"17 tokens are not a square grid .*; drop the class token \(drop_tokens\)"):
        module(IMAGES)


def convolutions(width, stride):
    """Two taps at any image size, the first layer with a stride."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3, stride=stride, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )


@pytest.mark.parametrize("widths", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_maps_need_be_neither_square_nor_of_one_size(widths, strides):
    """Images of 12 × 20: maps of 12 × 20, 6 × 10 and 4 × 7 are compared by every loss, whoever has the larger ones."""
    torch.manual_seed(1)
    images = torch.rand(3, 1, 12, 20)
    student, teacher = (convolutions(width, stride) for width, stride in zip(widths, strides, strict=True))
    module = Distiller(student, teacher, loss=all_losses(), **TAPS)
    assert len(module.prepare(images)) == (0 if widths[0] == widths[1] else 2)
    reaches_the_student(module, images)


class Last(nn.Module):
    """Gives maps (B, H, W, C), from a linear layer or, as nobody can tell, from an identity."""

    def __init__(self, width, told):
        super().__init__()
        self.patches, self.block1 = nn.Conv2d(1, width // 2, 1), nn.Linear(width, width) if told else nn.Identity()
        self.block2, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, 3)

    def forward(self, images):
        """(B, 1, H, W) to (B, 3)."""
        return self.head(self.maps(images)[1].mean((1, 2)))

    def maps(self, images):
        """(B, H, W, width) and (B, H, W, 2 width)."""
        x = self.patches(images).permute(0, 2, 3, 1)
        first = self.block1(torch.cat([x, x.sin()], -1))
        return first, self.block2(first)


def last_teacher(told, **options):
    """A student of 4 channels with a teacher of 6 and 12 in the last place."""
    torch.manual_seed(0)
    options = {"loss": SVDLoss(), **options}
    return Distiller(network(), Last(6, told), student_taps=("0", "1"), teacher_taps=("block1", "block2"), **options)


def test_channels_in_the_last_place():
    """Told by the layers or by the setting: the adapters are made for channels, and the loss is that of the maps."""
    values = []
    for told, layout in ((True, None), (True, "channels_last"), (False, ["channels_last", None])):
        module = last_teacher(told, teacher_layout=layout)
        assert module.prepare(IMAGES) == (Adapted("0", 4, 6), Adapted("1", 4, 12))
        output = module.train()(IMAGES)
        values.append(output.transfer.detach())
        assert module.teacher_shapes(IMAGES) == ((6, 8, 8), (12, 8, 8))
        maps = [one.detach().permute(0, 3, 1, 2) for one in module.teacher.maps(IMAGES)]
        torch.testing.assert_close(module.source.maps(IMAGES), maps)
    assert torch.equal(values[0], values[1])


def test_a_layout_that_nothing_tells_is_asked_for():
    """By whoever looks first, prepare or the first step."""
    for use in (lambda module: module.prepare(IMAGES), lambda module: module(IMAGES)):
        with pytest.raises(ShapeError, match=r"^tap 'block1' of the teacher gives .* set teacher_layout"):
            use(last_teacher(False))


def test_rows_of_positions():
    """A 1-d convolution's (B, C, T) and a linear layer's (B, N, D) are told apart, and the setting is above both."""
    torch.manual_seed(0)
    rows = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 5, 1), nn.Conv1d(5, 7, 3), nn.Flatten(), nn.Linear(434, 3))
    options = {"loss": SVDLoss(), "student_taps": ("0", "1"), "teacher_taps": ("1", "2")}
    module = Distiller(network(), rows, **options)
    assert module.prepare(IMAGES) == (Adapted("0", 4, 5), Adapted("1", 4, 7))
    assert module.teacher_shapes(IMAGES) == ((64, 5), (62, 7))
    module = Distiller(network(), rows, teacher_layout="channels_last", **options)
    assert module.teacher_shapes(IMAGES) == ((5, 64), (7, 62))
