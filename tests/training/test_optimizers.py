"""Tests of optimizers by name, where weight decay goes, and how the learning rate is set."""

import pytest
import torch
from torch import nn

from svdistill.errors import OptionError, SvdistillWarning
from svdistill.training import backward
from svdistill.training.optimizers import add_main_decay, make_optimizer, set_learning_rate, trained


def model():
    """Weights of two and four dimensions, biases and a norm."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))


def test_sgd_is_nesterov_and_leaves_the_decay_to_the_main_gradient():
    """Torch's own decay is 0 everywhere; weights alone carry main_decay."""
    optimizer = make_optimizer("sgd", model(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["nesterov"] and group["weight_decay"] == 0 for group in optimizer.param_groups)
    weights, others = optimizer.param_groups
    assert (weights["main_decay"], others["main_decay"]) == (1e-4, 0)
    assert [p.ndim for p in weights["params"]] == [4, 2]
    assert [p.ndim for p in others["params"]] == [1, 1, 1, 1]


def test_adamw_decays_weights_by_itself():
    """Decoupled from the gradients, on weights only."""
    optimizer = make_optimizer("adamw", model().parameters(), lr=0.1, momentum=0.8, weight_decay=1e-2)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2, 0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)


def test_sgd_without_momentum():
    """Nesterov needs momentum, so there is none of either."""
    assert not make_optimizer("sgd", model(), lr=0.1, momentum=0.0).param_groups[0]["nesterov"]


def stepped(name, *, weight, gradients, fused=True, reload_as=None):
    """Return a weight after steps on these gradients, optionally with a checkpoint and a new layout on the way."""
    parameter = nn.Parameter(weight.clone(memory_format=torch.preserve_format))
    optimizer = make_optimizer(name, [parameter], lr=0.1, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["fused"] = fused
    for number, gradient in enumerate(gradients):
        if reload_as is not None and number == 2:
            state = optimizer.state_dict()
            parameter = nn.Parameter(parameter.detach().clone(memory_format=reload_as))
            optimizer = make_optimizer(name, [parameter], lr=0.1, weight_decay=0.0)
            optimizer.load_state_dict(state)
        parameter.grad = gradient.clone(memory_format=torch.preserve_format)
        optimizer.step()
    return parameter.detach()


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("weight_lies", LAYOUTS)
@pytest.mark.parametrize("gradients_lie", LAYOUTS)
def test_the_fused_form_is_the_plain_one_however_tensors_lie(name, weight_lies, gradients_lie):
    """Torch's own fused kernels on a CPU mix elements up where gradient and weight lie differently."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(5, 4, 3, 3), torch.randn(4, 5, 4, 3, 3).unbind()
    plain = stepped(name, weight=weight, gradients=gradients, fused=False)
    laid = [g.contiguous(memory_format=gradients_lie) for g in gradients]
    found = stepped(name, weight=weight.contiguous(memory_format=weight_lies), gradients=laid)
    torch.testing.assert_close(found, plain, rtol=16 * torch.finfo(torch.float32).eps, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("before", "after"), [LAYOUTS, LAYOUTS[::-1]])
def test_a_checkpoint_continues_with_weights_that_lie_otherwise(name, before, after):
    """Momentum comes back as the weights lie now."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(5, 4, 3, 3), torch.randn(4, 5, 4, 3, 3).unbind()
    plain = stepped(name, weight=weight, gradients=gradients, fused=False)
    found = stepped(name, weight=weight.contiguous(memory_format=before), gradients=gradients, reload_as=after)
    torch.testing.assert_close(found, plain, rtol=16 * torch.finfo(torch.float32).eps, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_form_is_taken_on_a_cpu(name):
    """Of both optimizers; a device that has none gets the plain form."""
    assert all(group["fused"] for group in make_optimizer(name, model(), lr=0.1).param_groups)
    assert not any(group["fused"] for group in make_optimizer(name, model().to("meta"), lr=0.1).param_groups)


def test_frozen_parameters_are_left_out():
    """Only what needs a gradient is trained."""
    net = model()
    net[0].requires_grad_(False)
    assert {id(p) for p in trained(make_optimizer("sgd", net, lr=0.1))} == {id(p) for p in (*net[1:].parameters(),)}


def test_main_decay_is_added_to_weights_only():
    """A weight gets λ θ more, λ θ alone where only another loss reaches it, and a bias stays as it was."""
    net = nn.Linear(2, 1).double()
    other = nn.Parameter(torch.full((1, 1), 3.0, dtype=torch.float64))
    optimizer = make_optimizer("sgd", [net.weight, other, net.bias], lr=0.1, weight_decay=0.5)
    gradient, bias = torch.ones(1, 2).double(), torch.ones(1).double()
    transfer = (None, torch.ones(1, 1).double(), None)
    weight, alone, same = add_main_decay(optimizer, (gradient, None, bias), besides=transfer)
    assert torch.equal(weight, 1 + 0.5 * net.weight)
    assert torch.equal(alone, torch.full((1, 1), 1.5).double())
    assert same is bias
    assert add_main_decay(optimizer, (gradient, None, bias))[1] is None
    assert torch.equal(gradient, torch.ones(1, 2).double())
    assert not weight.requires_grad


def test_decay_that_nobody_adds_is_warned_of():
    """As in a loop of one's own that calls `loss.backward()`; not where `backward` stands in its place."""
    net = nn.Linear(2, 1)
    optimizer = make_optimizer("sgd", net, lr=0.1, weight_decay=0.5)
    for _ in range(2):
        output = net(torch.ones(3, 2)).mean()
        backward(output, output**2, optimizer)
        optimizer.step()
    net(torch.ones(3, 2)).mean().backward()
    with pytest.warns(SvdistillWarning, match=r"after loss\.backward\(\) there is none; take torch\.optim\.SGD"):
        optimizer.step()
    make_optimizer("sgd", net, lr=0.1).step()


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("to_none", [True, False])
def test_the_passes_of_a_step_decay_once(passes, to_none):
    """Also a weight that the last pass reaches first, and where the step before was left out, as by a scaler."""
    net, late = nn.Linear(2, 1), nn.Parameter(torch.ones(1, 1))
    optimizer = make_optimizer("sgd", [*net.parameters(), late], lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=to_none)
        for number in range(passes):
            main = 0 * net(torch.ones(3, 2)).mean()
            backward(main + 0 * late.sum() if number == passes - 1 else main, main, optimizer)
        torch.testing.assert_close(net.weight.grad, 0.5 * net.weight.detach())
        torch.testing.assert_close(late.grad, 0.5 * late.detach())


def test_an_optimizer_that_another_wraps_has_its_decay():
    """As Accelerate's and Lightning's do: what is stepped is within, and no warning comes."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        @property
        def param_groups(self):
            return self.optimizer.param_groups

    net = nn.Linear(2, 1)
    inner = make_optimizer("sgd", net, lr=0.1, weight_decay=0.5)
    main = 0 * net(torch.ones(3, 2)).mean()
    backward(main, main, Wrapper(inner))
    torch.testing.assert_close(net.weight.grad, 0.5 * net.weight.detach())
    inner.step()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_another_optimizer_adds_no_main_decay(optimizer):
    """One that was made elsewhere does as its maker said."""
    net = nn.Linear(2, 1)
    gradients = (torch.ones(1, 2), None)
    assert add_main_decay(optimizer(net.parameters(), lr=0.1, weight_decay=0.1), gradients) == gradients


def test_the_rate_is_always_a_multiple_of_the_first():
    """Setting it twice does not multiply it twice, also after the optimizer's state was saved and loaded."""
    optimizer = make_optimizer("sgd", model(), lr=0.5)
    assert set_learning_rate(optimizer, 0.1) == pytest.approx(0.05)
    again = make_optimizer("sgd", model(), lr=0.5)
    again.load_state_dict(optimizer.state_dict())
    assert set_learning_rate(again, 0.1) == pytest.approx(0.05)
    assert [group["lr"] for group in again.param_groups] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'"),
        ({"lr": 0.0}, "lr 0.0, .*expected lr > 0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001"),
        ({"lr": float("nan")}, "lr nan"),
        ({"parameters": []}, "nothing to train"),
    ],
)
def test_errors_name_the_setting(options, message):
    """Unknown names and numbers out of range."""
    with pytest.raises(OptionError, match=message):
        make_optimizer(**{"name": "sgd", "parameters": model(), "lr": 0.1, **options})


def test_a_parameter_that_is_reached_late():
    """In two stages the classifier gets its first gradient when others have momentum, as in the plain form."""
    weights = []
    for fused in (True, False):
        parameters = [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)) for _ in range(2)]
        optimizer = make_optimizer("sgd", parameters, lr=0.1, weight_decay=0.0)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for step in range(3):
            parameters[0].grad = torch.full((2, 3), 0.5)
            parameters[1].grad = torch.full((2, 3), 0.25) if step else None
            optimizer.step()
        weights.append([p.detach() for p in parameters])
    for fused, plain in zip(*weights, strict=True):
        torch.testing.assert_close(fused, plain, rtol=4 * torch.finfo(torch.float32).eps, atol=0.0)
