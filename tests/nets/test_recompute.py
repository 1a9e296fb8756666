"""Tests of activations that are computed again: the same results, the same names, and really less kept."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from svdistill import nets
from svdistill.errors import OptionError
from svdistill.nets import Taps, recompute_activations


def network() -> nn.Module:
    """Two blocks with batch norm and dropout, and a layer that is not a block."""
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    back = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5, momentum=None), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(front, back, nn.Flatten(), nn.Linear(5 * 6 * 6, 3))


def images() -> torch.Tensor:
    """Return four images of noise, the same each time."""
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def gradients_of(model: nn.Module) -> list[torch.Tensor]:
    """Return what two backward passes on one graph give: one from the logits, one from a tap."""
    torch.manual_seed(5)
    parameters = list(model.parameters())
    with Taps(model, ["1"]) as taps:
        logits = model(images())
        (tapped,) = taps.collect()
    first = torch.autograd.grad(logits.square().sum(), parameters, retain_graph=True)
    second = torch.autograd.grad(tapped.sin().sum(), parameters, allow_unused=True)
    return [*first, *(g for g in second if g is not None)]


def test_gradients_buffers_and_random_numbers_are_those_without() -> None:
    """Bit for bit on a CPU, dropout and running statistics included, after two steps of two passes each."""
    plain, lean = network(), network()
    expected = [*gradients_of(plain), *gradients_of(plain)]
    following = torch.rand(3)
    with recompute_activations(lean) as blocks:
        found = [*gradients_of(lean), *gradients_of(lean)]
    assert blocks == ("0", "1")
    assert torch.equal(torch.rand(3), following)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in lean.state_dict().items())
    assert lean.state_dict()["1.1.num_batches_tracked"] == 2


def test_each_pass_computes_each_block_once_more() -> None:
    """Once forward and once in each of two backward passes, so that nothing inside is kept; other layers run once."""
    ran: Counter[str] = Counter()
    model = network()
    for name in ("0.0", "1.0", "3"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
    with recompute_activations(model):
        gradients_of(model)
    assert ran == {"0.0": 3, "1.0": 3, "3": 1}


@pytest.mark.parametrize("training", [False, True])
def test_without_gradient_or_in_eval_mode_it_runs_as_ever(training: bool) -> None:
    """Once, also where a gradient follows in eval mode."""
    model = network().train(training)
    ran: list[int] = []
    model[0][0].register_forward_pre_hook(lambda *_: ran.append(1))
    with recompute_activations(model):
        with torch.set_grad_enabled(not training):
            logits = model(images())
        if not training:
            logits.sum().backward()
    assert len(ran) == 1


def test_a_tap_inside_a_block_gives_its_map() -> None:
    """With its gradient, and the same."""

    def measured(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        with Taps(model, ["1.0"]) as taps:
            model(images())
            (tapped,) = taps.collect()
        return tapped.detach(), torch.autograd.grad(tapped.square().sum(), model[0][0].weight)[0]

    lean = network()
    with recompute_activations(lean):
        found = measured(lean)
    assert all(torch.equal(one, other) for one, other in zip(found, measured(network()), strict=True))


def test_autocast_is_that_of_the_first_time() -> None:
    """bfloat16 products, though the backward pass runs outside of autocast."""

    def gradients(model: nn.Module) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images()).float().square().sum()
        return torch.autograd.grad(loss, list(model.parameters()))

    lean = network()
    with recompute_activations(lean):
        found = gradients(lean)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients(network()), strict=True))


def test_the_model_is_as_it_was_afterwards() -> None:
    """No name, attribute or key has come; a copy made meanwhile is a model of its own."""
    model = network()
    keys, attributes = list(model.state_dict()), set(vars(model[0]))
    with recompute_activations(model):
        assert list(model.state_dict()) == keys
        twin = copy.deepcopy(model)
        nn.init.zeros_(twin[0][0].weight)
        assert not torch.equal(twin(images()), model(images()))
        assert model[0][0].weight.any()
    assert set(vars(model[0])) == attributes
    with pytest.raises(ZeroDivisionError), recompute_activations(model):
        _ = 1 / 0
    assert set(vars(model[0])) == attributes


@pytest.mark.parametrize(
    ("name", "some", "count"),
    [
        ("vgg-bn-student", {"block1", "block4"}, 5),
        ("mobilenet-student", {"stem", "stage1.0"}, 7),
        ("resnext-student", {"stem", "stage1"}, 5),
        ("resnet20", {"stem", "stage1.0", "stage3.2"}, 11),
        ("wrn-16-2", {"stage1.0", "stage3.1"}, 7),
        ("vgg8", {"block1", "block5"}, 6),
    ],
)
def test_blocks_of_our_networks(name: str, some: set[str], count: int) -> None:
    """Blocks as the papers call them, not whole stages and not single layers."""
    with torch.device("meta"):
        model = nets.create(name, num_classes=10)
    with recompute_activations(model) as blocks:
        assert some <= set(blocks)
        assert len(blocks) == count


class Attending(nn.Module):
    """A layer of a transformer, in small."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        """Transform (B, N, 4)."""
        return x + scale * self.dense(self.attention(x, x, x)[0])


class Transformer(nn.Module):
    """Layers in a list, which get an option by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Attending() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform (B, N, 4)."""
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return x


def test_any_module_with_layers_in_a_list() -> None:
    """A transformer: one block a layer, with options by name."""
    plain, lean = Transformer(), Transformer()
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(plain(x).square().sum(), list(plain.parameters()))
    with recompute_activations(lean) as blocks:
        found = torch.autograd.grad(lean(x).square().sum(), list(lean.parameters()))
    assert blocks == ("layers.0", "layers.1", "layers.2")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_refused() -> None:
    """A compiled model, and one that is a single layer."""
    compiled = network()
    compiled.compile(backend="eager")
    with (
        pytest.raises(OptionError, match=r"compiled model .* leave out compile or recompute"),
        recompute_activations(compiled),
    ):
        pass
    with pytest.raises(OptionError, match="Linear has no blocks"), recompute_activations(nn.Linear(2, 2)):
        pass
