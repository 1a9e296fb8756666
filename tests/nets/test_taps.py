"""Tests of taps."""

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError
from svdistill.nets import Taps, create
from svdistill.nets.taps import TapMemory


class Forked(nn.Module):
    """A module that is not a VGG: a layer used twice, one never used, one that gives a tuple, one that gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
        self.gru = nn.GRU(4, 4)
        self.dictionary = Dictionary()

    def forward(self, x: Tensor) -> Tensor:
        """Run every layer but one."""
        x = self.body["first"](self.body["first"](x))
        output: Tensor = self.gru(x)[0]
        return self.dictionary(output)["x"]  # type: ignore[no-any-return]


class Dictionary(nn.Module):
    """Gives a dict."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Wrap."""
        return {"x": x}


class Wrapped(nn.Module):
    """Gives what it is told to, with its input in place of each ``...``."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        """Wrap."""
        return tuple(x if one is ... else (x,) if one == "nested" else one for one in self.form)


def hooks(model: nn.Module) -> int:
    """How many forward hooks a model has."""
    return sum(len(m._forward_hooks) for m in model.modules())


def small() -> nn.Sequential:
    """Three named layers, nested."""
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", [(...,), (..., None), (None, ..., (4, 4)), ("nested",)])
def test_the_only_tensor_of_a_tuple(form: Any, compiled: bool) -> None:
    """It is what the module gave, also in a compiled network; numbers and None beside it say nothing."""
    model = nn.Sequential(nn.Linear(3, 5), Wrapped(form))
    x = torch.randn(6, 3)
    with Taps(model, ["1"]) as taps:
        (torch.compile(model, backend="eager") if compiled else model)(x)
        assert torch.equal(*taps.collect(), model[0](x))


@pytest.mark.parametrize("form", [(..., ...), (..., "nested"), (..., "word"), (None,)])
def test_a_tuple_of_more_or_less(form: Any) -> None:
    """Where it is in doubt which tensor is meant, none is taken."""
    model = nn.Sequential(Wrapped(form))
    with Taps(model, ["0"]) as taps:
        model(torch.randn(6, 3))
        with pytest.raises(ShapeError, match=r"gave a tuple of \d, expected a tensor"):
            taps.collect()


def test_outputs_in_the_order_of_the_names() -> None:
    """Maps come in the order of the names, not of the network, and are the outputs themselves."""
    model, x = small(), torch.randn(6, 3)
    with Taps(model, ["1", "0", "1.0"]) as taps:
        assert taps.names == ("1", "0", "1.0")
        output = model(x)
        last, first, middle = taps.collect()
    assert last is output
    assert torch.equal(first, model[0](x))
    assert torch.equal(middle, first.relu())


def test_same_name_twice() -> None:
    """A name may occur twice and gives the same map twice, from one hook."""
    model = small()
    with Taps(model, ["0", "0"]) as taps:
        assert hooks(model) == 1
        model(torch.randn(2, 3))
        first, second = taps.collect()
    assert first is second


def test_gradient_flows_through_a_map() -> None:
    """A map carries its graph: the gradient equals that of the layer called by hand."""
    model, x = small(), torch.randn(6, 3)
    weight = model.get_parameter("0.weight")
    with Taps(model, ["0"]) as taps:
        model(x)
        (gradient,) = torch.autograd.grad(taps.collect()[0].square().sum(), weight)
    (expected,) = torch.autograd.grad(model[0](x).square().sum(), weight)
    assert torch.equal(gradient, expected)


def test_collect_forgets() -> None:
    """A second collect without a run in between is an error, and the first left nothing behind."""
    model = small()
    with Taps(model, ["0"]) as taps:
        model(torch.randn(2, 3))
        taps.collect()
        with pytest.raises(ShapeError, match=r"'0'.*did not run since the last collect"):
            taps.collect()


def test_nothing_is_kept_alive() -> None:
    """After collect, the maps die with the caller's references; after close, the taps do not keep the model's maps."""
    model = small()
    taps = Taps(model, ["0"])
    model(torch.randn(2, 3))
    reference = weakref.ref(taps.collect()[0])
    gc.collect()
    assert reference() is None
    model(torch.randn(2, 3))
    kept = taps._outputs["0"]
    assert not isinstance(kept, str)
    reference = weakref.ref(kept.tensor)
    del kept
    taps.close()
    gc.collect()
    assert reference() is None


def test_last_run_counts() -> None:
    """Of two runs, and of two calls within one, the last output is kept."""
    model, x, y = Forked(), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    with Taps(model, ["body.first"]) as taps:
        model(x)
        model(y)
        (kept,) = taps.collect()
    first = model.body["first"]
    assert torch.equal(kept, first(first(y)))


def test_hooks_are_removed() -> None:
    """Close removes every hook, more than once without harm, and says so when asked for maps afterwards."""
    model = small()
    taps = Taps(model, ["0", "1.1"])
    assert hooks(model) == 2
    taps.close()
    taps.close()
    assert hooks(model) == 0
    model(torch.randn(2, 3))
    with pytest.raises(ShapeError, match="closed"):
        taps.collect()


def test_hooks_are_removed_after_an_exception() -> None:
    """An exception inside the block goes through, and the hooks are gone."""
    model = small()
    with pytest.raises(RuntimeError), Taps(model, ["0"]):
        model(torch.randn(2, 99))
    assert hooks(model) == 0


def test_foreign_hooks_stay() -> None:
    """Hooks of others and other taps are left alone."""
    model = small()
    model[0].register_forward_hook(lambda *_: None)
    with Taps(model, ["0"]) as outer:
        with Taps(model, ["0"]):
            pass
        model(torch.randn(2, 3))
        assert len(outer.collect()) == 1
    assert hooks(model) == 1


def test_state_of_the_model_is_untouched() -> None:
    """Taps add nothing to the state dict and do not change the output."""
    model, x = small(), torch.randn(2, 3)
    keys, expected = list(model.state_dict()), model(x)
    with Taps(model, ["0", "1"]):
        assert list(model.state_dict()) == keys
        assert torch.equal(model(x), expected)


def test_unknown_name_points_to_the_nearest() -> None:
    """An unknown name is answered by the nearest dotted names, and no hook is left behind."""
    model = create("vgg-teacher", num_classes=2, width=0.1)
    with pytest.raises(OptionError, match=r"VGG has no submodule 'block5'.*'block[1-4]'"):
        Taps(model, ["block1", "block5"])
    with pytest.raises(OptionError, match=r"'block3\.conv2'"):
        Taps(model, ["block3.convv2"])
    assert hooks(model) == 0


@pytest.mark.parametrize(("names", "message"), [([], "no taps"), ("block1", r"write \['block1'\]"), ([""], "''")])
def test_unusable_names(names: Any, message: str) -> None:
    """No names, a bare string and the empty name are refused."""
    with pytest.raises(OptionError, match=message):
        Taps(create("vgg-student", num_classes=2, width=0.1), names)


def test_module_that_did_not_run() -> None:
    """A submodule that the model does not use is named."""
    model = Forked()
    with Taps(model, ["body.first", "body.unused"]) as taps:
        model(torch.randn(2, 1, 4))
        with pytest.raises(ShapeError, match=r"'body\.unused'.*did not run"):
            taps.collect()


@pytest.mark.parametrize(("name", "kind"), [("gru", "a tuple of 2"), ("dictionary", "a dict")])
def test_output_that_is_no_tensor(name: str, kind: str) -> None:
    """Any other output is an error that says what it was; the run itself is not disturbed."""
    model = Forked()
    with Taps(model, [name]) as taps:
        model(torch.randn(2, 1, 4))
        with pytest.raises(ShapeError, match=f"'{name}' gave {kind}, expected a tensor"):
            taps.collect()


def test_tied_module_under_both_names() -> None:
    """A module that is registered twice can be tapped by either name."""
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with Taps(model, ["2"]) as taps:
        output = model(torch.randn(2, 3))
        assert taps.collect()[0] is output


def test_two_names_of_one_module() -> None:
    """Together they are refused: both would give its last output."""
    layer = nn.Linear(3, 3)
    with pytest.raises(OptionError, match="taps '0' and '2' are one submodule of Sequential, of which only the last"):
        Taps(nn.Sequential(layer, nn.ReLU(), layer), ["0", "2"])


class Shapes(nn.Module):
    """Gives tokens, a map and a vector, each from a submodule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.map, self.vector = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, D)."""
        tokens = self.tokens(x)
        grid = self.map(tokens.mT[..., None])
        output: Tensor = self.vector(grid.flatten(2).mean(2))
        return output


@pytest.mark.parametrize("count", [0, 1, 3])
def test_tokens_are_dropped_from_the_front(count: int) -> None:
    """Of (B, N, D) outputs only; maps and vectors stay as they are, and so does what the model computes."""
    model, x = Shapes(), torch.randn(2, 5, 4)
    with Taps(model, ["tokens", "map", "vector"], drop_tokens=count) as taps:
        output = model(x)
        tokens, grid, vector = taps.collect()
    assert torch.equal(tokens, x[:, count:])
    assert grid.shape == (2, 4, 5, 1)
    assert vector is output
    assert torch.equal(output, model(x))


def test_gradient_of_kept_tokens() -> None:
    """Gradients flow through the tokens that are kept, and none through those that were dropped."""
    x = torch.randn(2, 5, 4, requires_grad=True)
    model = Shapes()
    with Taps(model, ["tokens"], drop_tokens=2) as taps:
        model(x)
        taps.collect()[0].sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[:, 2:], torch.ones(2, 3, 4))
    assert not x.grad[:, :2].any()


@pytest.mark.parametrize("count", [5, 6])
def test_at_least_one_token_is_left(count: int) -> None:
    """Dropping all of them is one line that says how many there were."""
    model = Shapes()
    with Taps(model, ["tokens"], drop_tokens=count) as taps:
        model(torch.randn(2, 5, 4))
        with pytest.raises(ShapeError, match=f"'tokens' has 5 tokens, {count} of which are to be dropped; lower"):
            taps.collect()


def test_fewer_than_no_tokens() -> None:
    """A negative number is refused, and no hook is left behind."""
    model = Shapes()
    with pytest.raises(OptionError, match="drop_tokens is -1, expected 0 or more"):
        Taps(model, ["tokens"], drop_tokens=-1)
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ["layers.0", "layers.0.norm1", "layers.0.linear2", "layers.1"])
def test_layers_of_a_transformer_in_eval_mode(name: str) -> None:
    """PyTorch's fused way through an encoder in eval mode does not go past the taps."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = model(x)
        with Taps(model, [name], drop_tokens=1) as taps:
            output = model(x)
            (kept,) = taps.collect()
    assert kept.shape == (2, 4, 8)
    torch.testing.assert_close(output, expected)
    if name == "layers.1":
        torch.testing.assert_close(kept, expected[:, 1:])


# What a later operation changes in place


class Overwritten(nn.Module):
    """Every tensor that it makes is changed in place by what comes next; dropout does so in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
        self.drop, self.last = nn.Dropout(0.5, inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) to (B, 3)."""
        x = self.first(x)
        x = self.act(self.norm(x.mul_(2)))
        output: Tensor = self.last(self.drop(x))
        return output


CHANGED = ("first", "norm", "act")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_outputs_are_as_the_module_gave_them(training: bool, context: Any) -> None:
    """Against copies that hooks of our own made, in several passes."""
    torch.manual_seed(0)
    model, given = Overwritten().train(training), {}
    for name in CHANGED:
        model.get_submodule(name).register_forward_hook(
            lambda m, a, output, name=name: given.update({name: output.detach().clone()})
        )
    with Taps(model, CHANGED) as taps:
        for _ in range(3):
            with context():
                model(torch.randn(8, 4))
                maps = taps.collect()
            assert all(torch.equal(one, given[name]) for name, one in zip(CHANGED, maps, strict=True))


def test_a_mode_that_was_not_seen_is_watched_anew() -> None:
    """In eval mode nothing follows the activation in place, in train mode dropout does."""
    model, x = Overwritten().eval(), torch.randn(8, 4)
    with Taps(model, ["act"]) as taps:
        model(x)
        assert taps.collect()[0].min() == 0
        model.train()
        model(x)
        (kept,) = taps.collect()
    assert torch.equal(kept, kept.relu())
    assert kept.count_nonzero() > model.drop(kept.clone()).count_nonzero()


def test_only_what_is_changed_is_copied() -> None:
    """After the first pass an output that nobody touches is the very tensor, and others are one copy."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    given: list[Tensor] = []
    model[0].register_forward_hook(lambda m, a, output: given.append(output))
    with Taps(model, ["0", "2"]) as taps:
        for _ in range(2):
            output = model(torch.randn(3, 4))
            first, last = taps.collect()
            assert last is output
            assert first is not given.pop()


def test_a_change_that_no_pass_has_shown_is_refused_once() -> None:
    """One line; the next pass copies."""

    class Sometimes(nn.Sequential):
        change = False

        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            return x.zero_() if self.change else x

    model = Sometimes(nn.Linear(4, 4))
    with Taps(model, ["0"]) as taps:
        model(torch.randn(2, 4))
        taps.collect()
        model.change = True
        model(torch.randn(2, 4))
        with pytest.raises(ShapeError, match=r"^what tap '0' gave was changed in place .*; run the model again"):
            taps.collect()
        model(torch.randn(2, 4))
        assert taps.collect()[0].all()


def test_gradient_of_what_is_changed_later() -> None:
    """As without a change in place, in the first pass and in later ones."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with Taps(model, ["0", "1"]) as taps:

        def both(x: Tensor) -> Tensor:
            output = model(x)
            first, second = taps.collect()
            total: Tensor = first.square().sum() + second.pow(3).sum() + output.sum()
            return total

        for _ in range(2):
            assert torch.autograd.gradcheck(both, (x,))


def test_compiled_taps_are_as_the_module_gave_them() -> None:
    """What eager eval mode has shown is copied within what is compiled; what it has not is refused once."""
    torch.manual_seed(2)
    model, x, memory = Overwritten().eval(), torch.randn(8, 4), TapMemory()
    plain = nn.Sequential(model.first, nn.Identity())(x).detach()
    with Taps(model, ["first"], memory=memory) as taps:
        model(x)
        assert torch.equal(taps.collect()[0], plain)
    model.compile(backend="aot_eager")
    for known in (memory, memory, TapMemory()):
        with Taps(model, ["first"], memory=known) as taps:
            model(x)
            if known is not memory:
                with pytest.raises(ShapeError, match="changed in place"):
                    taps.collect()
                model(x)
            torch.testing.assert_close(taps.collect()[0], plain)
    torch.compiler.reset()
