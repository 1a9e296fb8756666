"""Tests of one step with several losses, and with what learns beside the student, against gradients made by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.plain_loss import PlainLoss
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from svdistill import gradients, losses, training
from svdistill.data import Augmentation, Batches, Mixing
from svdistill.distiller import Distiller
from svdistill.errors import OptionError, TrainingError
from svdistill.gradients import CLIPS, TransferHealth
from svdistill.training import Examples, Learner, Objective, take_step
from svdistill.training.metrics import Metrics
from svdistill.training.optimizers import trained
from svdistill.training.step import forward_backward

DECAY = 1e-3  # of make_run's optimizer
EPOCH = 1
SIGMOID = 1 / (1 + math.exp(-EPOCH))


class Middle(nn.Module, PlainLoss):
    """A loss of the middle map that counts how often it is asked, with a figure of health of its own."""

    reads = "maps"

    def __init__(self):
        super().__init__()
        self.asked = 0

    def compare(self, student, teacher):
        """Return the mean distance of the last tap."""
        self.asked += 1
        return (student[1] - teacher[1]).abs().mean(), {"asked": torch.tensor(float(self.asked))}


def batch(run):
    """Return one batch, images and labels, and put the distiller in train mode."""
    run.distiller.train()
    images, labels, *_ = next(run.batches.epoch())
    return images, labels


def named(distiller):
    """Return everything that learns, by name."""
    return dict(distiller.named_parameters())


def gradient(loss, distiller):
    """Return the gradient of a loss by the name of the parameter, in float64; None where it does not reach."""
    parameters = named(distiller)
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: None if g is None else g.double() for name, g in zip(parameters, found, strict=True)}


def plus(first, second):
    """Add two gradients, either of which may be None."""
    return second if first is None else first if second is None else first + second


def decayed(distiller, gradients, *others):
    """Add the weight decay to a main gradient wherever any loss reaches a weight."""
    parameters = named(distiller)
    reached = [name for name in parameters if any(g[name] is not None for g in (gradients, *others))]
    decay = {name: DECAY * parameters[name].detach().double() for name in reached if parameters[name].ndim >= 2}
    return {name: plus(g, decay.get(name)) for name, g in gradients.items()}


def per_variable(main, transfer):
    """The combination of two gradients, written out for one variable."""
    if transfer is None:
        return main
    main = torch.zeros_like(transfer) if main is None else main
    return main + transfer * min(1.0, SIGMOID * float(main.norm()) / float(transfer.norm()))


def taken(run, images, labels, **options):
    """Do a step and return its result and the gradients that reached the optimizer, by the name of the parameter."""
    seen = {}

    def look(*_):
        seen.update({name: p.grad for name, p in named(run.distiller).items()})

    handle = run.optimizer.register_step_pre_hook(look)
    torch.manual_seed(5)
    result = training.step(run.engine, run.distiller, run.optimizer, images, labels, epoch=EPOCH, **options)
    handle.remove()
    return result, {name: None if g is None else g.double() for name, g in seen.items()}


def forward(run, images, labels):
    """Run the distiller as the step will, and return the main loss and the output."""
    torch.manual_seed(5)
    output = run.distiller(images)
    return F.cross_entropy(output.logits, labels), output


def norm(gradients):
    """Return one norm over all."""
    return math.sqrt(sum(float(g.square().sum()) for g in gradients.values() if g is not None))


def agree(found, expected):
    """Compare gradients by name, None included; float32's rounding is measured by the norm over all."""
    assert found.keys() == expected.keys()
    eps = torch.finfo(torch.float32).eps
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            limits = {"rtol": 256 * eps, "atol": 16 * eps * norm(expected)}
            torch.testing.assert_close(found[name], value, **limits, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def two(make_run, stand_in):
    """A run with a bounded loss of the maps and soft targets beside the main task."""
    return make_run(loss={"maps": stand_in.MapDistance(), "soft": losses.SoftTargetLoss()})


def test_a_loss_beside_joins_the_main_gradient_which_then_bounds_the_other(two):
    """Two losses of different clip: g_m = main + beside + decay, g = g_m + bounded g_t, weights included."""
    images, labels = batch(two)
    main, output = forward(two, images, labels)
    g_main = decayed(two.distiller, gradient(0.5 * main + 0.7 * output.terms["soft"], two.distiller))
    g_transfer = gradient(30.0 * output.terms["maps"], two.distiller)
    expected = {name: per_variable(g_main[name], g_transfer[name]) for name in g_main}
    reached = [name for name, g in g_transfer.items() if g is not None]
    bounded = [name for name in reached if SIGMOID * g_main[name].norm() < g_transfer[name].norm()]
    assert bounded, "a bound that never holds would test nothing"

    objective = Objective(main=0.5, weights={"maps": 30.0, "soft": 0.7}, beside={"soft"})
    health = TransferHealth()
    result, found = taken(two, images, labels, objective=objective, health=health)
    agree(found, expected)
    total = 30.0 * output.terms["maps"].detach() + 0.7 * output.terms["soft"].detach()
    torch.testing.assert_close(result.transfer, total)
    torch.testing.assert_close(result.main, main.detach())
    assert health.summary()["clipped"] == pytest.approx(len(bounded) / len(reached))


def test_losses_without_bounds_are_a_plain_weighted_sum(two):
    """With clip none the step is that of one loss, the sum."""
    images, labels = batch(two)
    main, output = forward(two, images, labels)
    whole = 2.0 * main + 3.0 * output.terms["maps"] + 4.0 * output.terms["soft"]
    expected = decayed(two.distiller, gradient(whole, two.distiller))
    objective = Objective(main=2.0, weights={"maps": 3.0, "soft": 4.0}, clip="none")
    agree(taken(two, images, labels, objective=objective)[1], expected)


def test_only_the_losses_with_a_weight_are_measured(make_run, stand_in):
    """The others cost nothing, and their figures are not there."""
    run = make_run(loss={"maps": stand_in.MapDistance(), "middle": Middle()})
    images, labels = batch(run)
    result, _ = taken(run, images, labels, objective=Objective(weights={"maps": 1.0}))
    assert run.distiller.losses["middle"].asked == 0
    assert result.health.keys() == {"alignment", "set_aside"}
    result, _ = taken(run, images, labels)
    assert run.distiller.losses["middle"].asked == 1
    assert result.health.keys() == {"alignment", "set_aside", "asked"}


def test_without_any_loss_the_step_is_that_of_the_student_alone(two):
    """An objective whose weights are empty leaves the teacher out."""
    ran = []
    two.distiller.teacher.register_forward_pre_hook(lambda *_: ran.append(1))
    images, labels = batch(two)
    main, _ = forward(two, images, labels)
    expected = decayed(two.distiller, gradient(main, two.distiller))
    ran.clear()
    result, found = taken(two, images, labels, objective=Objective(weights={}))
    agree(found, expected)
    assert (ran, result.transfer, result.health) == ([], None, {})


def test_the_transfer_task_alone_leaves_the_rest_of_the_student_bit_for_bit(two):
    """Main 0: no bound, no momentum and no decay where the loss does not reach; decay where it does."""
    images, labels = batch(two)
    _, output = forward(two, images, labels)
    g_transfer = gradient(3.0 * output.terms["maps"], two.distiller)
    nothing = dict.fromkeys(g_transfer)
    expected = {name: plus(g, g_transfer[name]) for name, g in decayed(two.distiller, nothing, g_transfer).items()}
    before = {name: p.detach().clone() for name, p in named(two.distiller).items()}
    objective = Objective(main=0.0, weights={"maps": 3.0}, clip="per_variable")
    result, found = taken(two, images, labels, objective=objective)
    agree(found, expected)
    still = {name for name, p in named(two.distiller).items() if torch.equal(p, before[name])}
    assert still >= {"student.4.weight", "student.4.bias"}
    assert {name for name, g in g_transfer.items() if g is None} == {"student.4.weight", "student.4.bias"}
    assert result.main.isfinite()


def test_a_loss_beside_bounds_the_others_also_where_the_main_loss_is_left_out(two):
    """Soft targets in place of labels: they are the main gradient then."""
    images, labels = batch(two)
    _, output = forward(two, images, labels)
    g_main = decayed(two.distiller, gradient(0.5 * output.terms["soft"], two.distiller))
    g_transfer = gradient(100.0 * output.terms["maps"], two.distiller)
    assert any(g is not None and g.norm() > g_main[name].norm() for name, g in g_transfer.items())
    objective = Objective(main=0.0, weights={"maps": 100.0, "soft": 0.5}, beside={"soft"})
    expected = {name: per_variable(g_main[name], g_transfer[name]) for name in g_main}
    agree(taken(two, images, labels, objective=objective)[1], expected)


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_the_whole_gradient_is_bounded_by_max_norm(two, max_norm):
    """Scaled down as a whole where it is larger, untouched where it is not."""
    images, labels = batch(two)
    _, output = forward(two, images, labels)
    plain = gradient(output.terms["maps"], two.distiller)
    plain = {name: plus(plain[name], g) for name, g in decayed(two.distiller, dict.fromkeys(plain), plain).items()}
    length = math.sqrt(sum(float(g.square().sum()) for g in plain.values() if g is not None))
    assert 1e-3 < length < 1e3
    objective = Objective(main=0.0, weights={"maps": 1.0}, max_norm=max_norm)
    _, found = taken(two, images, labels, objective=objective)
    factor = min(1.0, max_norm / length)
    agree(found, {name: None if g is None else g * factor for name, g in plain.items()})


# What learns beside the student


@pytest.fixture
def helped(make_run):
    """A run whose teacher is wider: adapters for KD-SVD, a regressor for the hint."""
    return make_run(loss={"svd": losses.SVDLoss(), "hint": losses.FitNetLoss()}, teacher_width=6)


def split(gradients):
    """Return the gradients of the student and those of the helpers."""
    student = {name: g for name, g in gradients.items() if name.startswith("student.")}
    return student, {name: g for name, g in gradients.items() if name not in student}


def test_helpers_are_there(helped):
    """An adapter of convolution and batch norm at each tap, and a regressor with a bias."""
    _, helpers = split(named(helped.distiller))
    kinds = {name.partition(".")[0] for name in helpers}
    assert kinds == {"adapters", "losses"}
    assert len(helpers) == 2 * 3 + 2
    assert {id(p) for p in helpers.values()} <= {
        id(p) for group in helped.optimizer.param_groups for p in group["params"]
    }


@pytest.mark.parametrize("weight", [1e-2, 1e4])
def test_bounded_helpers_follow_the_student(helped, weight):
    """The student's gradient is bounded by its main one; the helpers' own is kept at or below the student's norm."""
    images, labels = batch(helped)
    main, output = forward(helped, images, labels)
    g_main = gradient(main, helped.distiller)
    g_transfer = gradient(weight * (output.terms["svd"] + output.terms["hint"]), helped.distiller)
    g_main = decayed(helped.distiller, g_main, g_transfer)
    student, helpers = split({name: plus(g_main[name], g_transfer[name]) for name in g_main})
    student = {name: per_variable(g_main[name], g_transfer[name]) for name in student}
    factor = min(1.0, norm(student) / norm(helpers))
    assert (factor < 1) == (weight > 1)
    expected = student | {name: g * factor for name, g in helpers.items()}
    objective = Objective(weights={"svd": weight, "hint": weight})
    agree(taken(helped, images, labels, objective=objective)[1], expected)


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_helpers_without_bounds_get_their_plain_gradient(helped, factor):
    """With clip none, and in the transfer task alone, nothing is scaled."""
    images, labels = batch(helped)
    main, output = forward(helped, images, labels)
    g_main = gradient(main, helped.distiller) if factor else dict.fromkeys(named(helped.distiller))
    g_transfer = gradient(1e3 * output.terms["hint"], helped.distiller)
    g_main = decayed(helped.distiller, g_main, g_transfer)
    expected = {name: plus(g_main[name], g_transfer[name]) for name in g_main}
    assert norm(split(expected)[1]) > norm(split(g_main)[0])
    objective = Objective(main=factor, weights={"hint": 1e3}, clip="none")
    agree(taken(helped, images, labels, objective=objective)[1], expected)


def test_helpers_of_a_loss_that_takes_no_part_stay_as_they_are(helped):
    """Bit for bit, though they are in the optimizer and have weight decay."""
    images, labels = batch(helped)
    before = {name: p.detach().clone() for name, p in named(helped.distiller).items()}
    taken(helped, images, labels, objective=Objective(weights={"hint": 1.0}))
    changed = {
        name.partition(".")[0] for name, p in named(helped.distiller).items() if not torch.equal(p, before[name])
    }
    assert changed == {"student", "losses"}


class Poisoned(nn.Module, PlainLoss):
    """A loss with a parameter of its own, whose gradients are not finite."""

    reads = "maps"

    def __init__(self, poison):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 2))
        self.poison = poison

    def compare(self, student, teacher):
        """Return a finite loss of the first tap with an infinite slope."""
        return (student[0].sum() + self.scale.sum()) * self.poison * 0 + (student[1] - teacher[1]).square().mean(), {}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("main", [0.0, 1.0])
@pytest.mark.parametrize("clip", ["per_variable", "none"])
def test_gradients_that_are_not_finite_reach_neither_student_nor_helpers(make_run, main, poison, clip):
    """Also where the norm of all is bounded, which one of them would spoil for the rest."""
    run = make_run(loss={"bad": Poisoned(poison)})
    images, labels = batch(run)
    health = TransferHealth()
    objective = Objective(main=main, weights={"bad": 1.0}, max_norm=1.0, clip=clip)
    taken(run, images, labels, objective=objective, health=health)
    assert all(p.isfinite().all() for p in run.distiller.parameters())
    assert health.summary()["dropped"] > 0


def test_helpers_learn_in_mixed_precision(make_run):
    """Their weights and gradients are float32, and finite."""
    run = make_run(loss={"svd": losses.SVDLoss(), "hint": losses.FitNetLoss()}, teacher_width=6)
    run.engine = training.launch(device="cpu", precision="bf16-mixed", seed=0)
    images, labels = batch(run)
    before = {name: p.detach().clone() for name, p in named(run.distiller).items()}
    result, found = taken(run, images, labels)
    assert all(g.isfinite().all() for g in found.values())
    assert all(p.dtype == torch.float32 for p in run.distiller.parameters())
    assert not any(torch.equal(p, before[name]) for name, p in split(named(run.distiller))[1].items())
    assert result.transfer.dtype == torch.float32


# Images without labels


def test_images_without_labels_leave_the_main_loss_alone(make_run, stand_in):
    """The main loss is the mean over the labelled ones; the transfer loss sees all."""
    run = make_run(unlabelled=9)
    images, labels = batch(run)
    assert labels[8:].tolist() == [-1] * 4
    _, output = forward(run, images, labels.clamp(min=0))
    main = F.cross_entropy(output.logits[:8], labels[:8])
    g_main = decayed(run.distiller, gradient(main, run.distiller))
    g_transfer = gradient(output.transfer, run.distiller)
    expected = {name: per_variable(g_main[name], g_transfer[name]) for name in g_main}
    result, found = taken(run, images, labels)
    torch.testing.assert_close(result.main, main.detach())
    assert torch.equal(result.transfer, output.transfer.detach())
    agree(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_images_of_which_none_has_a_label(make_run, smoothing):
    """The transfer task learns from them, within a bound of its own; the main loss is zero and has no gradient."""
    run = make_run(unlabelled=9)
    images, labels = batch(run)
    objective = Objective(clip="own_norm", bound=1e9, label_smoothing=smoothing)
    g_transfer = gradient(forward(run, images, labels.clamp(min=0))[1].transfer, run.distiller)
    nothing = dict.fromkeys(g_transfer)
    expected = {name: plus(g, g_transfer[name]) for name, g in decayed(run.distiller, nothing, g_transfer).items()}
    before = {name: p.detach().clone() for name, p in named(run.distiller).items()}
    result, found = taken(run, images, torch.full_like(labels, -1), objective=objective)
    assert bool(result.applied)
    assert result.main == 0
    agree(
        {name: g for name, g in found.items() if expected[name] is not None},
        {n: g for n, g in expected.items() if g is not None},
    )
    assert any(not torch.equal(p, before[name]) for name, p in named(run.distiller).items())


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("mixed", [False, True])
def test_any_label_below_0_is_none(make_run, parts, mixed):
    """A batch of another library, which has −100 for no label, gives the step that −1 gives."""
    results = []
    for none in (-1, -100):
        run = make_run(loss=losses.SoftTargetLoss() if mixed else losses.DKDLoss(), unlabelled=9)
        images, labels = batch(run)
        labels[labels < 0] = none
        mix = {"others": labels.flip(0), "share": torch.linspace(0.1, 1, len(labels))} if mixed else {}
        learner = Learner(run.engine, run.distiller, run.optimizer, parts)
        result = take_step(learner, Examples(images, labels, **mix), epoch=0)
        results.append((dict(result.figures), [p.detach() for p in run.distiller.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_the_student_alone_passes_over_images_without_labels(make_run):
    """A batch of which some have none gives the gradient of the others' main loss."""
    run = make_run(teacher=False, unlabelled=9)
    images, labels = batch(run)
    torch.manual_seed(5)
    logits = run.distiller(images).logits
    expected = decayed(run.distiller, gradient(F.cross_entropy(logits[:8], labels[:8]), run.distiller))
    agree(taken(run, images, labels)[1], expected)


def test_smoothed_labels(make_run):
    """A fifth of each label is spread over the three classes; images without one have nothing to spread."""
    run = make_run(teacher=False, unlabelled=9)
    images, labels = batch(run)
    torch.manual_seed(5)
    logits = run.distiller(images).logits[:8]
    targets = 0.8 * F.one_hot(labels[:8], 3) + 0.2 / 3
    main = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    expected = decayed(run.distiller, gradient(main, run.distiller))
    result, found = taken(run, images, labels, objective=Objective(label_smoothing=0.2))
    torch.testing.assert_close(result.main, main.detach())
    agree(found, expected)
    plain = F.cross_entropy(logits, labels[:8], label_smoothing=0.2).detach()
    torch.testing.assert_close(result.main, plain)


def test_mixed_labels(make_run):
    """Cross-entropy with the mixed target, smoothed or not, of the labelled images alone; and its gradient."""
    run = make_run(teacher=False, unlabelled=9)
    images, labels = batch(run)
    others = torch.cat([labels[:8].flip(0), labels[8:]])
    share = torch.linspace(0.1, 1, len(labels))
    for smoothing in (0.0, 0.2):
        torch.manual_seed(5)
        logits = run.distiller(images).logits[:8]
        mine, theirs = (F.one_hot(one[:8], 3) for one in (labels, others))
        targets = share[:8, None] * mine + (1 - share[:8, None]) * theirs
        main = F.cross_entropy(logits, (1 - smoothing) * targets + smoothing / 3)
        expected = gradient(main, run.distiller)
        learner = Learner(run.engine, run.distiller, run.optimizer, 1)
        examples = Examples(images, labels, others=others, share=share)
        torch.manual_seed(5)
        part = forward_backward(learner, examples, Objective(label_smoothing=smoothing), epoch=0)
        torch.testing.assert_close(part.figures["loss"], main.detach())
        names = {id(parameter): name for name, parameter in named(run.distiller).items()}
        order = [names[id(parameter)] for parameter in trained(run.optimizer)]
        agree(dict(zip(order, (one.double() for one in part.main), strict=True)), expected)


def test_mixed_images_that_cannot_be_learnt_from(make_run):
    """A loss that compares with labels is refused before work starts, and in a loop of one's own."""
    run = make_run(loss=losses.DKDLoss())
    options = {"augmentation": Augmentation(), "mean": run.mean, "std": run.std}
    stages = [training.Stage(1)]
    rest = {"distiller": run.distiller, "optimizer": run.optimizer, "test": run.test, "mean": run.mean, "std": run.std}
    for mixing in (None, Mixing(mixup=0.2)):
        batches = Batches(run.test, 8, seed=0, mixing=mixing, **options)
        if mixing is None:
            training.TrainingPlan(batches=batches, stages=stages, **rest)
            continue
        said = r"^images are mixed, so that they have two labels each, and the loss transfer compares with one; give"
        with pytest.raises(OptionError, match=said):
            training.TrainingPlan(batches=batches, stages=stages, **rest)
        run.distiller.train()
        with pytest.raises(OptionError, match=said):
            take_step(Learner(run.engine, run.distiller, run.optimizer, 1), Examples(*next(batches.epoch())), epoch=0)


@pytest.mark.parametrize(
    "objective",
    [
        *(Objective(weights={"maps": 1.0, "soft": 1.0}, clip=clip) for clip in CLIPS),
        Objective(label_smoothing=0.1),
        Objective(weights={"maps": 1.0, "soft": 1.0}, beside={"soft"}),
        Objective(main=0.0, weights={"maps": 1.0}, max_norm=1.0),
        Objective(weights={}),
    ],
)
def test_nothing_in_a_step_waits_for_the_device(engine, stand_in, monkeypatch, objective):
    """Fake tensors have no values, so whoever looks at one fails; so would a look at a GPU within an epoch."""
    monkeypatch.setattr(gradients, "_add_on_cpu", gradients._add_unseen)  # what a GPU takes
    with FakeTensorMode():
        networks = stand_in.network(), stand_in.network()
        criteria = {"maps": Poisoned(0.0), "soft": losses.SoftTargetLoss()}  # the first has a parameter of its own
        taps = {"student_taps": ("0", "1"), "teacher_taps": ("0", "1")}
        distiller = Distiller(*networks, loss=criteria, **taps).train()
        optimizer = training.make_optimizer("sgd", distiller, lr=0.1, weight_decay=1e-3)
        metrics, health = Metrics("cpu"), TransferHealth()
        for _ in range(2):
            images, labels = torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
            result = training.step(
                engine, distiller, optimizer, images, labels, epoch=0, objective=objective, health=health
            )
            metrics.add(result.figures, images=result.images)
        assert metrics.steps == 2
        with pytest.raises(DataDependentOutputException):
            metrics.read()


# What is asked of a step that cannot be right


def test_a_step_in_eval_mode_is_refused(make_run):
    """Of the distiller, or of the student alone; nothing has changed."""
    run = make_run()
    images, labels = batch(run)
    before = {name: value.clone() for name, value in run.distiller.state_dict().items()}
    for module, who in ((run.distiller, "distiller"), (run.distiller.student, "student")):
        run.distiller.train()
        module.eval()
        with pytest.raises(TrainingError, match=f"^the {who} is in eval mode, .*; call distiller.train.. first$"):
            training.step(run.engine, run.distiller, run.optimizer, images, labels, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in run.distiller.state_dict().items())


@pytest.mark.parametrize("loss", [losses.SVDLoss, losses.FitNetLoss])
def test_an_optimizer_made_before_prepare_is_refused(engine, stand_in, loss):
    """It would never reach adapters or regressor; one of a part of the student passes."""
    taps = {"student_taps": ("0", "1"), "teacher_taps": ("0", "1")}
    distiller = Distiller(stand_in.network(4), stand_in.network(6), loss=loss(), **taps).train()
    early = training.make_optimizer("sgd", distiller, lr=0.1)
    distiller.prepare(torch.rand(4, 1, 8, 8))
    late = training.make_optimizer("sgd", [*distiller.student[4].parameters(), *distiller.parameters()][2:], lr=0.1)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    with pytest.raises(OptionError, match="the optimizer lacks the adapters or the parameters of a loss; call distil"):
        training.step(engine, distiller, early, images, labels, epoch=0)
    training.step(engine, distiller, late, images, labels, epoch=0)


def test_a_frozen_batch_norm_stays_as_it_is_in_steps(make_run):
    """Neither its parameters nor its statistics move, whatever else learns."""
    run = make_run()
    images, labels = batch(run)
    norm = run.distiller.student[0][1].eval().requires_grad_(False)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    other = run.distiller.student[4].weight.clone()
    for _ in range(2):
        training.step(run.engine, run.distiller.train(), run.optimizer, images, labels, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert not torch.equal(run.distiller.student[4].weight, other)
