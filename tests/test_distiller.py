"""Tests of the distiller: what runs when, what is compared, and that the teacher stays a guest."""

import copy

import pytest
import torch
from torch import nn

import svdistill
from svdistill.distiller import Adapted, Distiller
from svdistill.errors import OptionError, ShapeError
from svdistill.losses import (
    AttentionLoss,
    FitNetLoss,
    FSPLoss,
    RelationalLoss,
    SoftTargetLoss,
    SVDLoss,
    fitnet_loss,
    soft_target_loss,
    svd_loss,
)
from svdistill.teacher_cache import TeacherCache
from tests.plain_loss import PlainLoss


class Recorder(nn.Module, PlainLoss):
    """A transfer loss that keeps what it was given; the distance of the first entries."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads
        self.given = None

    def compare(self, student, teacher):
        """Return a loss and one figure."""
        self.given = (student, teacher)
        pairs = [(student, teacher)] if self.reads == "logits" else zip(student, teacher, strict=True)
        return sum((s - t).square().mean() for s, t in pairs), {"set_aside": torch.tensor(0)}


def network(width=4):
    """Two blocks with batch norm and dropout, and a classifier."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(width * 16, 3),
    )


TAPS = {"student_taps": ("0", "1"), "teacher_taps": ("0", "1")}
IMAGES = torch.linspace(0, 1, 2 * 64).reshape(2, 1, 8, 8)


def distiller(reads="maps", **options):
    """A student with its teacher."""
    torch.manual_seed(0)
    return Distiller(network(), network(), **{"loss": Recorder(reads), **TAPS, **options})


def test_it_is_in_the_package():
    """The public names are those of the package."""
    assert svdistill.Distiller is Distiller


def test_a_student_alone_gives_logits_and_nothing_else():
    """No teacher: no transfer loss, no health."""
    output = Distiller(network())(IMAGES)
    assert output.logits.shape == (2, 3)
    assert output.transfer is None
    assert output.health == {}


def test_in_train_mode_the_maps_are_compared():
    """The loss gets the outputs of the taps, in order, the student's with a graph and the teacher's without."""
    module = distiller(student_taps=("1", "0"), teacher_taps=("1", "0"))
    output = module(IMAGES)
    student, teacher = module.losses["transfer"].given
    assert [m.shape for m in student] == [m.shape for m in teacher] == [(2, 4, 4, 4), (2, 4, 6, 6)]
    assert all(m.requires_grad for m in student)
    assert not any(m.requires_grad for m in teacher)
    assert output.transfer.requires_grad
    assert output.health.keys() == {"set_aside"}


def test_a_loss_that_reads_logits_gets_logits():
    """And taps are not looked at, not even wrong ones."""
    module = distiller("logits", student_taps=(), teacher_taps=("nowhere",))
    output = module(IMAGES)
    assert module.losses["transfer"].given[0] is output.logits
    assert torch.equal(module.losses["transfer"].given[1], module.teacher(IMAGES))


def test_in_eval_mode_only_the_student_runs():
    """What comes out is what the student alone gives."""
    module = distiller().eval()
    output = module(IMAGES)
    assert output.transfer is None
    assert module.losses["transfer"].given is None
    assert torch.equal(output.logits, module.student(IMAGES))


def test_the_teacher_is_in_no_state_no_parameters_no_modules():
    """Only the student is saved and trained."""
    module = distiller()
    teachers = {id(p) for p in module.teacher.parameters()}
    assert not teachers & {id(p) for p in module.parameters()}
    assert module.teacher not in set(module.modules())
    assert {name.partition(".")[0] for name in module.state_dict()} == {"student"}


def test_the_teacher_stays_in_eval_mode_and_does_not_change():
    """Its batch norm neither uses nor updates batch statistics, also where somebody put it in train mode."""
    module = distiller()
    before = copy.deepcopy(module.teacher.state_dict())
    module.train()
    assert not any(m.training for m in module.teacher.modules())
    module.teacher.train()
    module(IMAGES).transfer.backward()
    assert not any(m.training for m in module.teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.state_dict().items())
    assert all(p.grad is None for p in module.teacher.parameters())
    assert all(p.grad is not None for p in module.student[0].parameters())


def test_the_teacher_moves_along():
    """Casting and moving reach both networks."""
    module = distiller().to(torch.float64)
    assert module.teacher[0][0].weight.dtype == torch.float64
    assert module(IMAGES.double()).transfer.dtype == torch.float64
    assert distiller().to("meta").teacher[0][0].weight.device.type == "meta"


def test_the_student_has_no_hooks_left():
    """Also after an error in the middle of a pass; a deep copy of the whole works on its own."""
    module = distiller()
    module(IMAGES)
    with pytest.raises(RuntimeError):
        module(IMAGES[:, :, :4])
    assert not any(m._forward_hooks for m in (*module.student.modules(), *module.teacher.modules()))
    module.losses["transfer"].given = None
    twin = copy.deepcopy(module)
    twin(IMAGES)
    assert twin.teacher is not module.teacher


def test_errors_come_when_it_is_made():
    """Teacher without loss and the reverse, wrong taps, a loss that reads something else."""
    with pytest.raises(OptionError, match="a teacher came without a loss"):
        Distiller(network(), network())
    with pytest.raises(OptionError, match="a loss came without a teacher"):
        Distiller(network(), loss=Recorder("maps"))
    with pytest.raises(OptionError, match=r"has no submodule '0\.9'; did you mean"):
        distiller(student_taps=("0.9", "1"))
    with pytest.raises(OptionError, match="has no submodule 'x'"):
        distiller(teacher_taps=("x", "1"))
    with pytest.raises(OptionError, match="no taps"):
        distiller(student_taps=())
    with pytest.raises(ShapeError, match="2 student taps came with 1 teacher taps"):
        distiller(teacher_taps=("0",))
    with pytest.raises(OptionError, match=r"Recorder.reads is 'pixels', expected one of maps, logits"):
        distiller("pixels")


# Several losses


def test_several_losses_are_summed_and_kept_apart():
    """Each is there under its name; the figures of all are put together."""

    class Figures(Recorder):
        def compare(self, student, teacher):
            loss, _ = super().compare(student, teacher)
            return loss, {"alignment": torch.tensor(0.25)}

    module = distiller(loss={"maps": Recorder("maps"), "logits": Figures("logits")})
    output = module(IMAGES)
    assert list(output.terms) == ["maps", "logits"]
    assert torch.equal(output.transfer, output.terms["maps"] + output.terms["logits"])
    assert output.health.keys() == {"set_aside", "alignment"}
    assert module.losses["logits"].given[0] is output.logits
    assert [m.shape for m in module.losses["maps"].given[1]] == [(2, 4, 6, 6), (2, 4, 4, 4)]


def test_a_single_loss_is_called_transfer():
    """And its term is the whole."""
    output = distiller()(IMAGES)
    assert list(output.terms) == ["transfer"]
    assert torch.equal(output.transfer, output.terms["transfer"])


def test_only_the_chosen_losses_are_measured():
    """The others are not asked; without any, the teacher does not run either."""
    module = distiller(loss={"maps": Recorder("maps"), "logits": Recorder("logits")})
    ran = []
    module.teacher.register_forward_pre_hook(lambda *_: ran.append(1))
    output = module(IMAGES, only=["logits"])
    assert list(output.terms) == ["logits"]
    assert module.losses["maps"].given is None
    assert ran == [1]
    output = module(IMAGES, only=())
    assert (output.transfer, output.terms, output.health) == (None, {}, {})
    assert ran == [1]
    with pytest.raises(OptionError, match="no transfer loss 'map' here; did you mean 'maps'"):
        module(IMAGES, only=["map"])


def test_taps_are_recorded_in_every_step_of_training():
    """Whichever loss is chosen: a compiled student does not notice that hooks have come or gone."""
    module = distiller(loss={"maps": Recorder("maps"), "logits": Recorder("logits")})
    hooks = []
    module.student[0].register_forward_pre_hook(lambda m, _: hooks.append(len(m._forward_hooks)))
    module(IMAGES, only=["logits"])
    module(IMAGES)
    module.eval()(IMAGES)
    assert hooks == [1, 1, 0]


def test_a_loss_need_not_be_a_module():
    """Anything that fulfils the contract will do, and is no part of the state."""

    class Logits(PlainLoss):
        reads = "logits"

        def compare(self, student, teacher):
            return soft_target_loss(student, teacher), {}

    module = distiller(loss={"plain": Logits(), "soft": SoftTargetLoss()})
    output = module(IMAGES)
    assert torch.equal(output.terms["plain"], output.terms["soft"])
    assert list(module.losses) == ["soft"]
    assert module.prepare(IMAGES) == ()


# What learns beside the student


def helped(**options):
    """A narrow student and a wide teacher, with losses that need an adapter, a regressor, or neither."""
    torch.manual_seed(0)
    loss = {"svd": SVDLoss(), "fitnet": FitNetLoss(), "attention": AttentionLoss()}
    return Distiller(network(4), network(6), **{"loss": loss, **TAPS, **options})


def test_prepare_makes_adapters_where_widths_differ():
    """It says which; they are in the state and among the parameters, and not in the student."""
    module = helped()
    assert module.adapted == ()
    keys = list(module.student.state_dict())
    expected = (Adapted("0", 4, 6), Adapted("1", 4, 6))
    assert module.prepare(IMAGES) == module.adapted == expected
    assert list(module.student.state_dict()) == keys
    assert {name.partition(".")[0] for name in module.state_dict()} == {"student", "adapters", "losses"}
    assert "losses.fitnet.regressor.weight" in dict(module.named_parameters())
    assert all(p.requires_grad for p in module.parameters())


def test_only_the_taps_that_need_it_are_adapted():
    """The first tap has equal widths and goes through as it is."""
    student = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 3, 3), nn.Flatten(), nn.Linear(48, 3))
    teacher = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 7, 3), nn.Flatten(), nn.Linear(112, 3))
    module = Distiller(student, teacher, loss=SVDLoss(), **TAPS)
    assert module.prepare(IMAGES) == (Adapted("1", 3, 7),)


def test_a_loss_gets_lifted_maps_only_where_it_compares_channels():
    """Others see the student as it is."""

    class Equal(Recorder):
        equal_widths = True

    module = helped(loss={"equal": Equal("maps"), "raw": Recorder("maps")})
    widths = []
    module.losses["raw"].compare = lambda student, _: (
        student[0].sum(),
        widths.append([m.shape[1] for m in student]) or {},
    )
    module.prepare(IMAGES)
    module(IMAGES)
    student, teacher = module.losses["equal"].given
    assert [m.shape for m in student] == [m.shape for m in teacher] == [(2, 6, 6, 6), (2, 6, 4, 4)]
    assert widths == [[4, 4]]


def test_helpers_and_student_learn_from_the_transfer_loss():
    """Gradients flow through the adapters into the student, and to the regressor."""
    module = helped()
    module.prepare(IMAGES)
    module(IMAGES).transfer.backward()
    without = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    # A bias in front of batch norm has no effect, and the classifier is behind the last tap.
    assert without <= {"student.0.0.bias", "student.4.weight", "student.4.bias"}
    assert all(p.grad is None for p in module.teacher.parameters())


def test_the_terms_are_those_of_the_functions():
    """Worked out from the maps by the losses' own functions, adapters and regressor in between."""
    module = helped()
    module.prepare(IMAGES)
    module.eval()  # so that a second pass gives the same
    module.training = True
    output = module(IMAGES)
    front = [module.student[0](IMAGES), module.teacher[0](IMAGES)]
    back = [module.student[1](front[0]), module.teacher[1](front[1])]
    own, theirs = [front[0], back[0]], [front[1], back[1]]
    regressor = module.losses["fitnet"].regressor
    weight, bias = regressor.weight[:, :, 0], regressor.bias
    torch.testing.assert_close(output.terms["svd"], svd_loss(module.adapters(own), theirs))
    torch.testing.assert_close(output.terms["fitnet"], fitnet_loss(own, theirs, weight=weight, bias=bias))


def test_helpers_do_not_touch_what_the_student_gives():
    """In eval mode and when saved, the student is as if there were none."""
    module = helped()
    alone = copy.deepcopy(module.student).eval()
    module.prepare(IMAGES)
    module.eval()
    assert torch.equal(module(IMAGES).logits, alone(IMAGES))
    assert not module.adapters.training
    assert module.train().adapters.training


def test_a_second_prepare_keeps_what_has_learnt():
    """Adapters and regressor are those of the first call, also where the images are others."""
    module = helped()
    module.prepare(IMAGES)
    kept = {name: id(p) for name, p in module.named_parameters()}
    assert module.prepare(IMAGES.flip(0)) == module.adapted
    assert {name: id(p) for name, p in module.named_parameters()} == kept


def test_a_loss_of_equal_widths_is_prepared_with_lifted_maps():
    """As it will be asked; another one with the student's own."""

    class Prepared(Recorder):
        def prepare(self, student, teacher):
            self.widths = [m.shape[1] for m in (*student, *teacher)]

    class Equal(Prepared):
        equal_widths = True

    module = helped(loss={"equal": Equal("maps"), "raw": Prepared("maps")})
    module.prepare(IMAGES)
    assert module.losses["equal"].widths == [6, 6, 6, 6]
    assert module.losses["raw"].widths == [4, 4, 6, 6]


def test_prepare_leaves_modes_and_statistics_alone():
    """Single submodules that were in another mode included; also where the pass fails."""
    module = helped()
    module.student[3].eval()
    before = copy.deepcopy(module.student.state_dict())
    modes = [m.training for m in module.student.modules()]
    module.prepare(IMAGES)
    assert [m.training for m in module.student.modules()] == modes
    with pytest.raises(RuntimeError):
        module.prepare(IMAGES[:, :, :4])
    assert [m.training for m in module.student.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.student.state_dict().items())
    assert not any(m.training for m in module.teacher.modules())
    assert not any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"loss": {"svd": SVDLoss(), "soft": SoftTargetLoss()}, "teacher_width": 4},  # equal widths
        {"loss": {"attention": AttentionLoss(), "relational": RelationalLoss()}},  # widths do not matter
        {"loss": SoftTargetLoss()},
        {"loss": None},
    ],
)
def test_prepare_draws_no_random_number_where_nothing_has_to_learn(options):
    """So that a run with equal widths does not depend on it."""
    options = dict(options)
    wide = network(options.pop("teacher_width", 6))
    module = Distiller(network(), None if options["loss"] is None else wide, **options, **TAPS)
    keys, state = list(module.state_dict()), torch.get_rng_state()
    assert module.prepare(IMAGES) == ()
    assert torch.equal(torch.get_rng_state(), state)
    assert list(module.state_dict()) == keys


def test_prepare_draws_new_weights_from_the_seed():
    """Equal seeds give equal adapters and regressors."""
    first, second, third = helped(), helped(), helped()
    for seed, module in zip((1, 1, 2), (first, second, third), strict=True):
        torch.manual_seed(seed)
        module.prepare(IMAGES)
    states = [module.state_dict() for module in (first, second, third)]
    new = [name for name in states[0] if name.endswith(("convolution.weight", "regressor.weight"))]
    assert len(new) == 3
    assert all(torch.equal(states[0][name], states[1][name]) for name in new)
    assert not any(torch.equal(states[0][name], states[2][name]) for name in new)


def test_helpers_move_along():
    """Casting reaches them, and a copy has its own."""
    module = helped()
    module.prepare(IMAGES)
    twin = copy.deepcopy(module)
    assert module.to(torch.float64)(IMAGES.double()).transfer.isfinite()
    assert module.adapters.layers[0].convolution.weight.dtype == torch.float64
    assert twin(IMAGES).transfer.dtype == torch.float32


def test_without_prepare_unequal_widths_are_refused():
    """With what to do; nothing is made in the middle of a step."""
    with pytest.raises(ShapeError, match="4 channels in the student and 6 in the teacher"):
        helped(loss=SVDLoss())(IMAGES)
    with pytest.raises(ShapeError, match="no regressor yet; call prepare"):
        helped(loss=FitNetLoss())(IMAGES)


# Networks that are no twins


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
    with pytest.raises(ShapeError, match=r"17 tokens are not a square grid .*; drop the class token"):
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


class Notebook(TeacherCache):
    """What a teacher said to some images, one view of each, as it was said; it notes what it is asked."""

    def __init__(self, known, tap_shapes=()):
        arrays = {loss: {name: one[None].numpy() for name, one in parts.items()} for loss, parts in known.items()}
        super().__init__(arrays, tap_shapes=tap_shapes)
        self.asked = []

    def read(self, names, indices, views, *, device):
        """Return the rows of these images."""
        self.asked.append((tuple(names), indices.tolist(), views.tolist(), device.type))
        return super().read(names, indices, views, device=device)


STORABLE = {
    "svd": lambda: SVDLoss(2),
    "svd in the teacher's basis": lambda: SVDLoss(2, basis="teacher"),
    "attention": AttentionLoss,
    "relational": RelationalLoss,
    "soft-target": SoftTargetLoss,
    "a sum": lambda: {"svd": SVDLoss(), "soft-target": SoftTargetLoss()},
}


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("name", STORABLE)
def test_a_stored_teacher_takes_the_place_of_one_that_runs(name, width):
    """Losses, health and gradients are those of the teacher that ran, adapters included; no teacher is there."""
    loss = STORABLE[name]()
    torch.manual_seed(0)
    live = Distiller(network(), network(width), loss=loss, **TAPS)
    live.prepare(IMAGES)
    live.student[3].p = 0.0  # dropout would draw anew
    notes = Notebook(live.extract(IMAGES), live.teacher_shapes(IMAGES))
    stored = Distiller(copy.deepcopy(live.student), notes, loss=copy.deepcopy(loss), student_taps=("0", "1"))
    assert stored.teacher is None
    assert stored.prepare(IMAGES) == live.adapted
    stored.load_state_dict(live.state_dict())
    order = torch.tensor([1, 0])
    images = IMAGES[order]
    expected, found = live(images), stored(images, indices=order, views=torch.zeros(2, dtype=torch.int64))
    assert notes.asked == [(tuple(live._losses), [1, 0], [0, 0], "cpu")]
    assert found.terms.keys() == expected.terms.keys()
    assert found.transfer.item() == pytest.approx(expected.transfer.item(), rel=1e-5)
    assert found.transfer.item() > 0
    for key, value in expected.health.items():
        assert float(found.health[key]) == pytest.approx(float(value), rel=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found.transfer, stored.student[0][0].weight),
        torch.autograd.grad(expected.transfer, live.student[0][0].weight),
        rtol=1e-4,
        atol=1e-6,
    )


def test_only_what_is_measured_is_read():
    """A loss that takes no part is not read, and without any nothing is."""
    live = distiller(loss={"svd": SVDLoss(), "soft-target": SoftTargetLoss()})
    notes = Notebook(live.extract(IMAGES), live.teacher_shapes(IMAGES))
    stored = Distiller(network(), notes, loss={"svd": SVDLoss(), "soft-target": SoftTargetLoss()}, **TAPS)
    which = {"indices": torch.arange(2), "views": torch.zeros(2, dtype=torch.int64)}
    assert stored(IMAGES, only=["soft-target"], **which).terms.keys() == {"soft-target"}
    assert stored(IMAGES, only=[], **which).transfer is None
    assert stored.eval()(IMAGES).transfer is None
    assert [names for names, *_ in notes.asked] == [("soft-target",)]


def test_extracting_leaves_the_student_as_it_was():
    """Neither its mode nor its batch statistics change."""
    module = distiller(loss=SVDLoss()).train()
    before = copy.deepcopy(module.student.state_dict())
    known = module.extract(IMAGES)["transfer"]
    assert not any(one.requires_grad for one in known.values())
    assert all(part.training for part in module.student.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.student.state_dict().items())


def test_a_stored_teacher_that_does_not_fit_is_refused():
    """A loss that cannot be stored, one that was not, other taps, or nobody saying which images these are."""
    notes = Notebook(distiller(loss=SVDLoss()).extract(IMAGES), [(4, 6, 6), (4, 4, 4)])
    with pytest.raises(OptionError, match=r"'soft' .* not stored, only .* by transfer"):
        Distiller(network(), notes, loss={"soft": SoftTargetLoss()})
    with pytest.raises(OptionError, match="needs too much of the teacher to be stored"):
        Distiller(network(), notes, loss=FSPLoss(), **TAPS)
    with pytest.raises(ShapeError, match="1 student taps came with 2 teacher taps"):
        Distiller(network(), notes, loss=SVDLoss(), student_taps=("0",))
    module = Distiller(network(), notes, loss=SVDLoss(), **TAPS)
    with pytest.raises(OptionError, match="give indices= and views= of 2 images"):
        module(IMAGES)
    with pytest.raises(ShapeError, match="2 images came with 1 indices and 1 views"):
        module(IMAGES, indices=torch.zeros(1, dtype=torch.int64), views=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(OptionError, match="no teacher to run"):
        module.extract(IMAGES)
    with pytest.raises(OptionError, match="too much"):
        distiller(loss=FSPLoss()).extract(IMAGES)


@pytest.mark.parametrize("basis", ["own", "teacher"])
def test_compiled_losses_give_the_same(basis):
    """Loss and gradient of the compiled KD-SVD, with a teacher that runs and with a stored one, differ by rounding."""
    torch.manual_seed(0)
    module = Distiller(network(), network(), loss=SVDLoss(basis=basis), **TAPS)
    module.student[3].p = 0.0
    notes = Notebook(module.extract(IMAGES), module.teacher_shapes(IMAGES))
    stored = Distiller(module.student, notes, loss=SVDLoss(basis=basis), student_taps=("0", "1"))
    weight = module.student[0][0].weight

    def results():
        where = torch.arange(len(IMAGES))
        for output in (module(IMAGES), stored(IMAGES, indices=where, views=torch.zeros_like(where))):
            yield output.transfer.detach(), *torch.autograd.grad(output.transfer, weight)

    plain = list(results())
    for one in (module, stored):
        one.compile_losses(backend="aot_eager")
    for (loss, gradient), (expected, goal) in zip(results(), plain, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, goal, rtol=1e-4, atol=1e-6)
