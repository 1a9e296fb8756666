"""Tests of the distiller: what runs when, what is compared, and that the teacher stays a guest."""

import copy
import pickle

import pytest
import torch
from torch import nn

import svdistill
from svdistill.distiller import Adapted, Distiller
from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.losses import (
    AttentionLoss,
    DKDLoss,
    FitNetLoss,
    FSPLoss,
    RelationalLoss,
    SoftTargetLoss,
    SVDLoss,
    dkd_loss,
    fitnet_loss,
    soft_target_loss,
    svd_loss,
)
from svdistill.nets import compile_module, learning_alone
from tests.distillers import IMAGES, TAPS, Recorder, distiller, network
from tests.plain_loss import PlainLoss


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
    with pytest.raises(ShapeError, match="2 student taps came with 1 teacher taps"):
        distiller(teacher_taps=("0",))
    with pytest.raises(OptionError, match=r"Recorder.reads is 'pixels', expected one of maps, logits"):
        distiller("pixels")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (SVDLoss, r"^the loss 'transfer' is the class SVDLoss itself; give SVDLoss\(\)$"),
        ({"svd": SVDLoss}, r"^the loss 'svd' is the class SVDLoss itself"),
        (
            "svd",
            r"^the loss 'transfer' is 'svd', expected a transfer loss; give one, such as .*SVDLoss\(\), or several by",
        ),
        (nn.MSELoss(), r"^the loss 'transfer' is MSELoss\(\), expected a transfer loss"),
        ([SVDLoss()], r"^the loss 'transfer' is \[SVDLoss\(.*, expected a transfer loss"),
        (
            {"svd.1": SVDLoss()},
            r"^a loss cannot be called 'svd\.1', a name of torch's own or no word without dots; give another one$",
        ),
        ({"": SVDLoss()}, r"^a loss cannot be called ''"),
        ({0: SVDLoss()}, r"^a loss cannot be called 0"),
        ({"values": SVDLoss()}, r"^a loss cannot be called 'values'"),
    ],
)
def test_what_is_no_loss(loss, message):
    """One line that says what to give."""
    with pytest.raises(OptionError, match=message) as caught:
        distiller(loss=loss)
    assert "\n" not in str(caught.value)


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


def test_figures_that_several_losses_have():
    """The mean of both; of the samples that each has set aside the sum."""

    class Figures(Recorder):
        def compare(self, student, teacher):
            loss, _ = super().compare(student, teacher)
            return loss, {"alignment": torch.tensor(0.25 * len(student)), "set_aside": torch.tensor(len(student))}

    module = distiller(loss={"maps": Figures("maps"), "more": Figures("maps"), "logits": Figures("logits")})
    health = module(IMAGES).health
    assert (float(health["alignment"]), int(health["set_aside"])) == (0.5, 6)


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
    with pytest.raises(OptionError, match=r"only is 'maps', expected a list of names; give only=\['maps'\]"):
        module(IMAGES, only="maps")


def test_taps_are_recorded_in_every_step_of_training():
    """Whichever loss is chosen: a compiled student does not notice that hooks have come or gone."""
    module = distiller(loss={"maps": Recorder("maps"), "logits": Recorder("logits")})
    hooks = []
    module.student[0].register_forward_pre_hook(lambda m, _: hooks.append(len(m._forward_hooks)))
    module(IMAGES, only=["logits"])
    module(IMAGES)
    module.eval()(IMAGES)
    assert [count > 0 for count in hooks] == [True, True, False]
    assert hooks[1] == 1  # the first pass is watched besides


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


def test_labels_reach_the_loss_that_needs_them():
    """And no other; without them it is refused in one line, unless it takes no part."""
    module = distiller(loss={"soft": SoftTargetLoss(), "dkd": DKDLoss()})
    module.student[3].p = 0.0
    labels = torch.tensor([1, -1])
    output = module(IMAGES, labels=labels)
    with torch.no_grad():
        expected = dkd_loss(output.logits, module.teacher(IMAGES), labels)
    torch.testing.assert_close(output.terms["dkd"], expected)
    assert module.needs_labels == {"dkd"}
    assert module(IMAGES, only=["soft"]).terms.keys() == {"soft"}
    assert module.eval()(IMAGES).transfer is None
    with pytest.raises(OptionError, match=r"^the loss dkd compares .* give them: distiller\(images, labels=labels\)"):
        module.train()(IMAGES)
    module.compile_losses(backend="eager")
    torch.testing.assert_close(module(IMAGES, labels=labels).terms["dkd"], expected)


# What learns beside the student


def helped(**options):
    """A narrow student and a wide teacher, with losses that need an adapter, a regressor, or neither."""
    torch.manual_seed(0)
    loss = {"svd": SVDLoss(), "fitnet": FitNetLoss(), "attention": AttentionLoss()}
    return Distiller(network(4), network(6), **{"loss": loss, **TAPS, **options})


def test_a_copy_has_losses_of_its_own_also_where_they_were_compiled():
    """What it compares reaches its own regressor, not that of the distiller that it was copied from."""
    module = helped()
    module.prepare(IMAGES)
    module.train().compile_losses(backend="eager")
    module(IMAGES)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other(IMAGES).terms["fitnet"].backward()
        assert other.losses["fitnet"].regressor.weight.grad is not None
        assert module.losses["fitnet"].regressor.weight.grad is None


def test_prepare_sees_through_what_is_compiled():
    """A tap that is changed in place later is given as it was, whichever comes first."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3))
    module = Distiller(student, network(), loss=Recorder("maps"), student_taps=["0"], teacher_taps=["0"])
    compile_module(module.student, backend="aot_eager")
    module.prepare(IMAGES)
    try:
        module.train()(IMAGES)
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(module.losses["transfer"].given[0][0], student[0](IMAGES))


def test_a_distiller_that_is_compiled_as_a_whole():
    """Its hooks are left to Python; the loss and its gradient are those of one that is not compiled."""
    plain = helped()
    plain.prepare(IMAGES)
    plain.train()
    module = copy.deepcopy(plain)
    compile_module(module, backend="eager")
    try:
        for one in (plain, module):
            one(IMAGES).transfer.backward()
    finally:
        torch.compiler.reset()
    for expected, found in zip(plain.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


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
    with pytest.raises(ShapeError, match="4 channels in the student and 6 in the teacher; call prepare of a Distiller"):
        helped(loss=SVDLoss())(IMAGES)
    with pytest.raises(ShapeError, match="no regressor yet; call prepare"):
        helped(loss=FitNetLoss())(IMAGES)


# The last features


def tapped(depth, **options):
    """A narrow student and a wide teacher, tapped at both maps and at their last features, as a vector or as a map."""
    torch.manual_seed(0)
    pairs = {"student_taps": ("0", "1", depth), "teacher_taps": ("0", "1", "pool")}
    return Distiller(pooled(4), pooled(6), **{"loss": SVDLoss(), **pairs, **options})


def pooled(width):
    """Two blocks, the first of four positions a side, pooled for the output layer."""
    layers = network(width)[:2]
    layers.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1)))
    layers.add_module("flat", nn.Flatten())
    layers.add_module("output", nn.Linear(width, 3))
    return layers


@pytest.mark.parametrize("depth", ["pool", "flat"])
def test_last_features_of_another_width_are_lifted(depth):
    """As a vector and as a map of one position; what reaches the loss is 6 wide, and one image is enough."""
    module = tapped(depth)
    assert module.prepare(IMAGES) == (Adapted("0", 4, 6), Adapted("1", 4, 6), Adapted(depth, 4, 6))
    for images in (IMAGES, IMAGES[:1]):
        transfer = module.train()(images).transfer
        assert transfer.isfinite()
        assert transfer > 0
        module.zero_grad()
        transfer.backward()
        lift = module.adapters.layers[2]
        assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    assert lift.norm.bias.grad.abs().sum() > 0


def test_what_is_left_out_is_said():
    """By the loss's name, once shapes are known; also of a stored teacher, of which they are known too."""
    losses = {"fsp": FSPLoss(), "svd": SVDLoss(), "attention": AttentionLoss()}
    module = tapped("flat", loss=losses)
    assert module.left_out == {}
    module.prepare(IMAGES)
    assert module.left_out == {"fsp": ("flat",), "attention": ("flat",)}
    storable = {"attention": AttentionLoss()}
    live = tapped("flat", loss=storable)
    live.prepare(IMAGES)
    cache = svdistill.TeacherCache.in_memory(live.extract(IMAGES), tap_shapes=live.teacher_shapes(IMAGES), precise={})
    stored = Distiller(live.student, cache, loss=storable, student_taps=("0", "1", "flat"))
    stored.prepare(IMAGES)
    assert stored.left_out == live.left_out == {"attention": ("flat",)}


def test_logits_as_a_tap_are_warned_of():
    """Of either network, by what the tap gives."""
    with pytest.warns(SvdistillWarning, match="^tap 'output' of the student gives the logits.* last hidden features"):
        tapped("output").prepare(IMAGES)
    module = tapped("flat", teacher_taps=("0", "1", "output"))
    with pytest.warns(SvdistillWarning, match="^tap 'output' of the teacher gives the logits") as caught:
        module.prepare(IMAGES)
    assert len(caught) == 1


@pytest.mark.parametrize("loss", [SVDLoss(), FSPLoss(), AttentionLoss(), FitNetLoss(), RelationalLoss()])
def test_a_tap_that_no_adapter_can_lift_is_refused(loss):
    """Neither a map nor a vector: one line that says which."""
    odd = tapped("pool", loss=loss)
    odd.student.pool.append(nn.Unflatten(1, (-1, 1)))

    def use():
        odd.prepare(IMAGES)
        odd(IMAGES)

    with pytest.raises(ShapeError, match=r"^tap 2 of the student must be .*, got \(2, 4, 1, 1, 1\)") as caught:
        use()
    assert "\n" not in str(caught.value)


# Networks that are not what they seem


def test_student_and_teacher_share_nothing_that_learns():
    """One network as both, a common stem, tied weights, or common statistics: one line that names the first."""
    one, common, tied, counted = network(), network(), network(), network()
    common[0], tied[4].weight, counted[0][1].running_mean = one[0], one[4].weight, one[0][1].running_mean
    for student, name in ((one, "0.0.weight"), (common, "0.0.weight"), (tied, "4.weight"), (counted, "running_mean")):
        with pytest.raises(OptionError, match=rf"share '[^']*{name}'.* give copy.deepcopy\(teacher\)$"):
            Distiller(student, one, loss=Recorder("maps"), **TAPS)


def test_what_is_frozen_may_be_shared():
    """A classifier of the teacher's with dropout in it: the student's stays in train mode."""
    student, teacher = network(), network()
    student[3], student[4] = teacher[3], teacher[4].requires_grad_(False)
    module = Distiller(student, teacher, loss=Recorder("maps"), **TAPS).train()
    module(IMAGES)
    assert student[3].training
    assert not teacher[0].training


def test_a_frozen_batch_norm_stays_frozen():
    """Through train and eval mode and back; whoever puts it in train mode again has it learn."""
    module = distiller()
    norm = module.student[0][1].eval()
    before = norm.running_mean.clone()
    for _ in range(2):
        module.train()(IMAGES)
        module.eval()(IMAGES)
    assert not module.train().student[0][1].training
    assert module.student.training
    assert torch.equal(norm.running_mean, before)
    norm.train()
    module.train()(IMAGES)
    assert not torch.equal(norm.running_mean, before)
    module.eval()
    assert norm.train() is module.train().student[0][1]
    assert norm.training


def test_a_batch_norm_stays_frozen_where_the_student_alone_is_put_in_eval_mode():
    """As by a loop that measures its student, and had frozen the norm after `train`."""
    module = distiller().train()
    norm = module.student[0][1].eval()
    module(IMAGES)
    module.student.eval()
    assert module.train().student.training
    assert not norm.training


def test_a_part_that_learns_in_eval_mode_is_warned_of():
    """As one that came so from a library, in a network of one's own; not where its parameters are frozen."""
    module = distiller()
    part = module.student[0].eval()
    with pytest.warns(SvdistillWarning, match=r"^'0' of the student learns, but is in eval mode and stays so"):
        module.train()
    assert not part[0].training
    part.requires_grad_(False)
    module.train()


def test_what_may_sleep_without_a_word():
    """A frozen norm with parts of its own, as timm's; what does the same in either mode; all but a head that learns."""

    class NormAndAct(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.drop, self.act = nn.Dropout(), nn.ReLU()

    student = network()
    student[0][1] = NormAndAct(student[0][1].num_features).eval()
    student[0][1].drop.eval()
    student.append(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval())
    student.append(nn.Sequential(nn.Dropout(), nn.Linear(3, 3)))
    module = Distiller(student).train()
    assert not module.student[0][1].training
    with learning_alone(student, "6.1"):
        module.train()


def test_a_student_that_comes_in_eval_mode_is_trained_as_a_whole():
    """As one that was loaded from a file."""
    module = Distiller(network().eval(), network(), loss=Recorder("maps"), **TAPS)
    assert all(one.training for one in module.train().student.modules())


def test_a_batch_norm_whose_statistics_are_not_frozen_is_told_of():
    """Where its parameters are: its mode decides alone."""
    module = distiller()
    module.student[0][1].requires_grad_(False)
    with pytest.warns(SvdistillWarning, match=r"^the parameters of batch norm '0.1' of the student are frozen, but"):
        module.train()
    module.student[0][1].eval()
    assert not module.train().student[0][1].training


def test_prepare_in_inference_mode():
    """What it makes can learn, and is what it makes elsewhere; its images may be of that mode too."""
    module, other = helped(), helped()
    torch.manual_seed(1)
    other.prepare(IMAGES)
    torch.manual_seed(1)
    with torch.inference_mode():
        module.prepare(IMAGES + 0)
    assert not any(one.is_inference() for one in (*module.parameters(), *module.buffers()))
    assert module.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(module.adapters.layers[0].convolution.weight, other.adapters.layers[0].convolution.weight)
    module(IMAGES).transfer.backward()


class Wrapped(nn.Sequential):
    """Returns more than logits, in a form of one's choice."""

    form = staticmethod(lambda features, logits: logits)

    def forward(self, images):
        """In that form."""
        features = self[2](self[1](self[0](images)))
        return self.form(features, self[4](self[3](features)))


FORMS = {
    "tuple": (lambda features, logits: ([features], logits), None),
    "dict": (lambda features, logits: {"features": features, "logits": logits}, None),
    "named": (lambda features, logits: (features, logits), 1),
    "key": (lambda features, logits: {"pooled": features, "out": logits}, "out"),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_networks_that_return_more(form):
    """Of the student and of the teacher, in train and eval mode: those of the networks as they are."""
    wrapped = [Wrapped(*network()) for _ in range(2)]
    plain = [nn.Sequential(*copy.deepcopy(one)).eval() for one in wrapped]
    for one in wrapped:
        one.form, name = FORMS[form]
    losses = {"maps": Recorder("maps"), "logits": Recorder("logits")}
    module = Distiller(*wrapped, loss=losses, student_output=name, teacher_output=name, **TAPS)
    assert torch.equal(module.eval()(IMAGES).logits, plain[0](IMAGES))
    output = module.train()(IMAGES)
    assert losses["logits"].given[0] is output.logits
    assert torch.equal(losses["logits"].given[1], plain[1](IMAGES))


def test_outputs_that_do_not_tell_are_refused():
    """With the name of the setting."""
    student = Wrapped(*network())
    student.form = FORMS["named"][0]
    with pytest.raises(ShapeError, match=r"the student gives a tuple.* say which part the logits are: student_output="):
        Distiller(student, network(), loss=Recorder("maps"), **TAPS)(IMAGES)


# Networks that are no twins


# Taps that are not named


def test_taps_are_suggested():
    """Where none are named the first images show them; what is named of one network is matched in the other."""
    module = distiller(loss=SVDLoss(), student_taps=(), teacher_taps=())
    assert module.taps == ((), ())
    module.prepare(IMAGES)
    student, teacher = module.taps
    assert student == teacher
    assert len(student) > 1
    assert module(IMAGES).transfer.requires_grad
    half = distiller(loss=SVDLoss(), student_taps=(), teacher_taps=teacher[-2:])
    half(IMAGES)
    assert half.taps == (student[-2:], teacher[-2:])
    with pytest.raises(OptionError, match="has no submodule 'x'"):
        distiller(student_taps=(), teacher_taps=("x",))
