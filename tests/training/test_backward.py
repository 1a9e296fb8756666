"""`backward` in a loop of one's own does what a step does; several processes and passes come to the weights of one."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests import processes
from torch import nn

import svdistill
from svdistill import losses
from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.gradients import CLIPS, TransferHealth
from svdistill.training import Backward, Objective, backward, joint_loss, step

EPS = torch.finfo(torch.float32).eps


def vector(*values, **options):
    """Return a parameter."""
    return nn.Parameter(torch.tensor(values), **options)


def test_by_hand():
    """A bound of 0.5 on a norm of 5; the adapter's 10 falls to the norm of the student's sum; the frozen stays."""
    weight, head, adapter, frozen = vector(0.0, 0.0), vector(0.0), vector(0.0), vector(0.0, requires_grad=False)
    head.grad = torch.tensor([1.0])
    health = TransferHealth()
    main = weight[0] + 2 * head.sum()
    transfer = 3 * weight[0] + 4 * weight[1] + 10 * adapter.sum()
    backward(main, transfer + 7 * frozen.sum(), [weight, head, adapter, frozen], bound=0.5, health=health)
    torch.testing.assert_close(weight.grad, torch.tensor([1.3, 0.4]))
    torch.testing.assert_close(head.grad, torch.tensor([3.0]))
    torch.testing.assert_close(adapter.grad, torch.tensor([math.sqrt(1.3**2 + 0.4**2 + 2**2)]))
    assert frozen.grad is None
    assert health.summary()["passed"] == pytest.approx(0.1)


def test_the_transfer_task_alone_is_held_by_its_own_bound():
    """Then there is no main gradient to tell an adapter by, and one norm is that of all."""
    weight, adapter = vector(0.0), vector(0.0)
    backward(None, 3 * weight.sum() + 4 * adapter.sum(), [weight, adapter], bound=0.5)
    torch.testing.assert_close((weight.grad, adapter.grad), (torch.tensor([0.3]), torch.tensor([0.4])))


def test_an_adapter_that_is_left_out_of_the_first_stage():
    """Without a main loss nothing tells it from a part that is to stay as it is, so it is a warning."""
    weight, adapter = vector(0.0), vector(0.0)
    with pytest.warns(SvdistillWarning, match=r"not among those given, and they do not learn from it \(1 in all\)"):
        backward(None, 3 * weight.sum() + 4 * adapter.sum(), [weight])
    assert adapter.grad is None


@pytest.mark.parametrize("clip", CLIPS)
def test_sparse_gradients_count_as_dense_ones(clip):
    """Those of an embedding, which torch's norms do not take."""
    found = []
    for sparse in (True, False):
        table = nn.Embedding(5, 2, sparse=sparse, _weight=torch.arange(10.0).reshape(5, 2))
        one, other = table(torch.tensor([1, 3, 1])), table(torch.tensor([3, 4]))
        backward(one.square().sum(), other.square().sum(), table.parameters(), clip=clip, epoch=1)
        found.append(table.weight.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("clip", CLIPS)
def test_it_gives_the_gradients_of_a_step(make_run, clip):
    """With adapters, a regressor, several losses with weights, and weight decay."""
    found = []
    for ours in (False, True):
        run = make_run(loss={"svd": losses.SVDLoss(), "hint": losses.FitNetLoss()}, teacher_width=6)
        images, labels, *_ = next(run.batches.epoch())
        run.distiller.train()
        weights = {"svd": 4.0, "hint": 2.0}
        torch.manual_seed(5)
        if ours:
            output = run.distiller(images)
            main = F.cross_entropy(output.logits, labels)
            backward(main, output.terms, run.optimizer, epoch=2, weights=weights, clip=clip, bound=0.3)
            found.append([p.grad.clone() for p in run.distiller.parameters()])
        else:
            run.optimizer.register_step_pre_hook(
                lambda *_, run=run: found.append([p.grad.clone() for p in run.distiller.parameters()])
            )
            objective = Objective(weights=weights, clip=clip, bound=0.3)
            step(run.engine, run.distiller, run.optimizer, images, labels, epoch=2, objective=objective)
    for expected, gradient in zip(*found, strict=True):
        assert expected.any()
        torch.testing.assert_close(gradient, expected, rtol=64 * EPS, atol=64 * EPS * float(expected.abs().max()))


def test_each_gradient_lies_as_its_parameter_does_and_alone():
    """What autograd gives may be one tensor for two parameters, or of other strides."""
    first, second = vector(1.0, 2.0), vector(3.0, 4.0)
    lying = nn.Parameter(torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
    whole = (first + second).sum() + (lying * torch.rand(2, 3, 4, 4)).sum()
    backward(whole, 0 * whole, [first, second, lying])
    assert lying.grad.stride() == lying.stride()
    first.grad.mul_(10)
    assert second.grad.tolist() == [1.0, 1.0]


def small():
    """A student and an adapter, with fixed weights, and eight samples."""
    torch.manual_seed(0)
    student, adapter = nn.Linear(4, 3), nn.Linear(3, 5)
    samples, goal, labels = torch.randn(8, 4), torch.randn(8, 5), torch.arange(8) % 3
    return student, adapter, samples, goal, labels


def losses_of(student, adapter, samples, goal, labels):
    """Return the main loss and one of what the adapter makes of the logits."""
    logits = student(samples)
    return F.cross_entropy(logits, labels), 50 * F.mse_loss(adapter(logits), goal)


def test_passes_are_combined_as_one_batch():
    """The bound is on the whole; call by call, each with a bound of its own, the transfer task gets more."""
    norms = {}
    for way in ("whole", "passes", "calls"):
        student, adapter, *data = small()
        parameters = [*student.parameters(), *adapter.parameters()]
        together = Backward(parameters)
        for number in range(1 if way == "whole" else 4):
            part = [one if way == "whole" else one[number::4] for one in data]
            main, transfer = (loss if way == "whole" else loss / 4 for loss in losses_of(student, adapter, *part))
            if way == "calls":
                backward(main, transfer, parameters)
            else:
                together(main, transfer, last=way == "whole" or number == 3)
                assert (parameters[0].grad is None) == (way == "passes" and number < 3)
        norms[way] = [p.grad for p in parameters]
    torch.testing.assert_close(norms["passes"], norms["whole"])
    assert not torch.allclose(norms["calls"][0], norms["whole"][0], rtol=1e-2)


def test_others_may_learn_from_the_next_pass_on():
    """What is held belongs to its parameter: whatever is frozen or thawed between two passes of a step."""
    first, second, third = vector(1.0), vector(1.0, requires_grad=False), vector(1.0)
    parameters = [first, second, third]
    together = Backward(parameters, bound=100)

    def losses_of_all():
        return 2 * first.sum() + 3 * second.sum() + 5 * third.sum(), 0 * third.sum()

    together(*losses_of_all(), last=False)
    first.requires_grad_(False)
    second.requires_grad_(True)
    together(*losses_of_all())
    assert [None if p.grad is None else float(p.grad) for p in parameters] == [None, 3.0, 10.0]


def test_a_loss_of_weight_zero_is_left_out():
    """Also one that is not finite."""
    weight = vector(1.0)
    backward(None, {"svd": weight.sum(), "hint": weight.sum() / 0}, [weight], weights={"svd": 0.25, "hint": 0})
    assert weight.grad.item() == 0.25


def test_a_loop_may_call_backward_itself():
    """The loss that it is given has the value of the main loss and hands on the gradients, scaled as it is."""
    student, adapter, *data = small()
    parameters = [*student.parameters(), *adapter.parameters()]
    main, transfer = losses_of(student, adapter, *data)
    backward(main, transfer, parameters)
    expected, main_alone = [p.grad / 4 for p in parameters], float(main.detach())
    for p in parameters:
        p.grad = None
    loss = joint_loss(*losses_of(student, adapter, *data), parameters)
    assert float(loss.detach()) == main_alone
    (loss / 4).backward()
    torch.testing.assert_close([p.grad for p in parameters], expected)

    weight = vector(2.0)
    alone = joint_loss(None, 3 * weight.sum(), [weight])
    alone.backward()
    assert (alone.item(), weight.grad.tolist()) == (6.0, [pytest.approx(0.3)])


def test_a_scaler_changes_nothing_but_the_range():
    """The bound is that of the gradient without the scale; what overflows is for the scaler to see."""
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        student, adapter, *data = small()
        optimizer = torch.optim.SGD([*student.parameters(), *adapter.parameters()], lr=0.1)
        backward(*losses_of(student, adapter, *data), optimizer, scaler=scaler)
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(student.parameters(), 1e-2)
        found.append([p.grad for group in optimizer.param_groups for p in group["params"]])
    torch.testing.assert_close(*found)

    scaler, before = torch.amp.GradScaler("cpu", init_scale=2.0**10), student.weight.detach().clone()
    main, transfer = losses_of(student, adapter, *data)
    backward(main, transfer + (student.weight[0] * 1e38).sum(), optimizer, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(student.weight, before)
    assert scaler.get_scale() == 2.0**9


def soft(logits, labels):
    """Cross-entropy with probabilities."""
    return F.cross_entropy(logits, F.one_hot(labels, 3).float() * 0.7 + 0.1)


def many(logits, labels):
    """Several labels an image."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).float())


def dense(logits, labels):
    """A class for each pixel."""
    return F.cross_entropy(logits, labels[:, None, None].expand(-1, *logits.shape[2:]))


MAIN = {
    "label smoothing": lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
    "soft labels": soft,
    "multi-label": many,
    "one's own": lambda logits, labels: (logits.softmax(1).gather(1, labels[:, None]) - 1).abs().mean(),
    "dense": dense,
}


@pytest.mark.parametrize("name", MAIN)
def test_any_main_loss(name, stand_in):
    """Also of a network whose output is a map of logits: both losses fall, and the adapters learn."""
    torch.manual_seed(0)
    student, teacher = stand_in.network(), stand_in.network(6)
    if name == "dense":
        student = nn.Sequential(*student[:2], nn.Conv2d(4, 3, 1), nn.Upsample(scale_factor=4))
    distiller = svdistill.Distiller(
        student, teacher, loss=losses.SVDLoss(), student_taps=("0", "1"), teacher_taps=("0", "1")
    )
    images = stand_in.image_set(24)
    pixels = images.images / 255
    distiller.prepare(pixels)
    before = [p.detach().clone() for p in distiller.adapters.parameters()]
    optimizer, seen = torch.optim.SGD(distiller.train().parameters(), lr=0.1, momentum=0.9), []
    for _ in range(12):
        output = distiller(pixels)
        main = MAIN[name](output.logits, images.labels)
        backward(main, 4 * 24 * output.transfer, optimizer)
        optimizer.step()
        optimizer.zero_grad()
        seen.append((float(main.detach()), float(output.transfer.detach())))
    assert seen[-1] < seen[0]
    assert seen[-1][1] < seen[0][1]
    assert all(not torch.equal(p, was) for p, was in zip(distiller.adapters.parameters(), before, strict=True))


ONE = vector(1.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: backward(ONE.sum(), None, [ONE]), OptionError, r"distiller is in eval mode .*main\.backward"),
        (lambda: backward(ONE.sum(), {}, [ONE]), OptionError, "there is no transfer loss"),
        (
            lambda: backward(torch.stack([ONE, ONE]), ONE.sum(), [ONE]),
            ShapeError,
            r"main loss has shape \(2, 1\).*mean",
        ),
        (lambda: backward(None, ONE, [ONE]), ShapeError, r"transfer loss has shape \(1,\)"),
        (
            lambda: backward(ONE.sum(), ONE.sum(), [vector(2.0)]),
            OptionError,
            "main loss reaches none of the parameters",
        ),
        (lambda: backward(None, ONE.sum(), [vector(2.0)]), OptionError, "transfer loss reaches none"),
        (lambda: backward(ONE.sum(), ONE.sum(), []), OptionError, "nothing to train"),
        (lambda: backward(ONE.sum(), ONE.sum(), nn.Linear(1, 1)), OptionError, "Linear came in place of parameters"),
        (lambda: backward(ONE.sum(), ONE.sum(), [torch.optim.SGD([ONE])]), OptionError, "SGD is among .* several"),
        (lambda: backward(0.0, ONE.sum(), [ONE]), OptionError, "main loss is of type float, .*main=None"),
        (lambda: backward(ONE.sum(), 0, [ONE]), OptionError, r"transfer loss is of type int, .*output\.transfer"),
        (lambda: backward(ONE.sum().detach(), ONE.sum(), [ONE]), OptionError, "main loss has no gradient and is not"),
        (lambda: backward(ONE.sum(), ONE.sum().detach(), [ONE]), OptionError, "transfer loss has no gradient and"),
        (
            lambda: backward(ONE.sum(), (ONE * vector(2.0)).sum(), [ONE]),
            OptionError,
            r"1 parameters .* never learn: adapters.*distiller\.parameters\(\) after distiller\.prepare",
        ),
        (
            lambda: backward(ONE.sum(), {"svd": ONE.sum()}, [ONE], weights={"svd": math.nan}),
            OptionError,
            "weight of 'svd' is nan",
        ),
        (lambda: backward(ONE.sum(), ONE.sum(), [ONE], clip="global"), OptionError, "clip='global' needs the epoch"),
        (lambda: backward(ONE.sum(), ONE.sum(), [ONE], clip="own_nrm"), OptionError, "did you mean 'own_norm'"),
        (lambda: backward(ONE.sum(), ONE.sum(), [ONE], clip=None), OptionError, "unknown clipping rule None"),
        (lambda: backward(ONE.sum(), ONE.sum(), [ONE], epoch="3"), OptionError, "epoch is '3'; it is a number"),
        (
            lambda: backward(ONE.sum(), {"svd": ONE.sum()}, [ONE], weights={"sdv": 1.0}),
            OptionError,
            "weights has 'sdv', .*'svd'",
        ),
        (
            lambda: backward(ONE.sum(), {"svd": ONE.sum(), "hint": ONE.sum()}, [ONE], weights={"svd": 1.0}),
            OptionError,
            "'hint' has no weight",
        ),
    ],
)
def test_what_does_not_fit(call, error, message):
    """One line that says what to do, and no gradient."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert ONE.grad is None


# Several processes


def program():
    """Import the loops, to do the same here in one process."""
    spec = importlib.util.spec_from_file_location("shared_loops", Path(__file__).with_name("shared_loops.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOPS = program()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes came to; by the documented loop after 20 steps."""
    folder = tmp_path_factory.mktemp("loops")
    for status, _, errors in processes.run(LOOPS.__file__, folder, timeout=300):
        assert status == 0, errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """What one process comes to on the joined batches, by the rule."""
    names = ("frozen statistics", "bare", "per variable", "without labels")
    return {name: LOOPS.loop(name)["end"] for name in names}


@pytest.mark.parametrize("name", LOOPS.LOOPS)
def test_processes_end_with_the_same_weights(two, name):
    """Bit for bit; the student and the adapters have learnt."""
    first, second = (part[name] for part in two)
    for key, value in first["end"].items():
        assert torch.equal(value, second["end"][key]), key
    learnt = {
        key.partition(".")[0] for key, value in first["end"].items() if not torch.equal(value, first["start"][key])
    }
    assert learnt == {"student", "adapters"}


@pytest.mark.parametrize("name", [name for name in LOOPS.LOOPS if name != "documented"])
def test_two_processes_come_to_the_weights_of_one(two, alone, name):
    """On the joined batch, however the network is wrapped, in however many passes."""
    expected = alone.get(name, alone["bare"])
    for key, value in expected.items():
        limit = 1e-9 * float(value.abs().max())
        torch.testing.assert_close(
            two[0][name]["end"][key], value, rtol=0, atol=limit, msg=lambda t, k=key: f"{k}: {t}"
        )
