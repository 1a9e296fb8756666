"""One pass through a network, written down: what each submodule gives, and what all that reaches the output is in."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from svdistill.choices import Layout
from svdistill.errors import OptionError, ShapeError, one_line
from svdistill.nets.cost import counting
from svdistill.nets.layouts import Layers, arranged, find_layout, last_layers
from svdistill.nets.modes import eval_mode
from svdistill.nets.taps import describe, only_tensor

_UNCLEAR = "which does not show where the channels are"
# What networks raise over images that they cannot take.
REFUSALS = (RuntimeError, AssertionError, TypeError, ValueError)


@dataclass(frozen=True)
class Place:
    """A submodule that ran, and what it gave.

    Attributes:
        name: its dotted name.
        kind: the name of its class.
        order: which one it was to end, from 0.
        shape: of its output for one image, as the losses take it: (C, H, W), (N, D) or (D,); () where it cannot be
            tapped.
        layout: where the channels are in what it gives itself; None for a vector.
        share: how much of the FLOPs of the whole pass was done when it had ended, 0 to 1.
        passed: whether all that reaches the network's output passes through this output: a block's does, that of a
            layer which a shortcut goes around does not.
        source: the number of the operation that made the output, the same where several submodules give the same.
        obstacle: why it cannot be tapped; empty where it can.
    """

    name: str
    kind: str
    order: int
    shape: tuple[int, ...]
    layout: Layout | None
    share: float
    passed: bool
    source: int
    obstacle: str = ""

    @property
    def depth(self) -> int:
        """How deep it lies: 1 for a child of the network."""
        return self.name.count(".") + 1

    @property
    def unclear(self) -> bool:
        """Whether it cannot be tapped only because its shape does not show where the channels are."""
        return self.obstacle.endswith(_UNCLEAR)

    @property
    def positions(self) -> int:
        """The number of positions: 1 for a vector, 0 where it cannot be tapped."""
        match self.shape:
            case (_, height, width):
                return height * width
            case (tokens, _):
                return tokens
        return len(self.shape)


@dataclass(frozen=True)
class Trace:
    """What one pass has shown.

    Attributes:
        places: all submodules that ran, in the order in which they ended.
        features: the place that gives the last hidden features; None where none does.
        output: the output layer, which gives the logits; None of a backbone, and where it cannot be told.
        declared: the places that the network itself names for its stages, as timm's do; () where it names none.
    """

    places: tuple[Place, ...]
    features: Place | None
    output: Place | None
    declared: tuple[Place, ...] = ()


@dataclass(eq=False)
class _Run:
    """What is noted of one submodule while the network runs."""

    name: str
    module: nn.Module
    calls: int = 0
    ended: int = 0
    flops: int = 0
    inputs: tuple[Any, ...] = ()
    output: Any = None
    version: int = 0
    node: Any = None

    @property
    def overwritten(self) -> bool:
        return isinstance(self.output, Tensor) and self.output._version != self.version


@torch.inference_mode(False)
def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run a network once, in eval mode, and write down what each of its submodules gives.

    The network stays as it is, its modes and gradients too; what is compiled runs uncompiled.

    Args:
        model: any module that takes the images.
        images: (B, C, H, W), as the network takes them; two of them are used.

    Returns:
        The places.

    Raises:
        OptionError: the network cannot take the images.
    """
    two = images.detach()[:2].clone()  # with two, a first dimension that is not the batch is noticed
    two = two if len(two) > 1 else two.expand(2, *two.shape[1:]).clone()
    runs = [_Run(name, module) for name, module in model.named_modules() if name]
    # An operation of its own stands for the images, which the network's first one would else be.
    entry = two.requires_grad_().clone()
    with ExitStack() as stack:
        for block in (eval_mode(model), torch.enable_grad(), torch.compiler.set_stance("force_eager")):
            stack.enter_context(block)
        layers = stack.enter_context(last_layers(model, [run.name for run in runs]))
        counter = stack.enter_context(counting())
        _watch(stack, runs, counter)
        # Of hooks for all modules, such as those that count FLOPs.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Using `torch.compile")
        try:
            output = model(entry)
        except REFUSALS as error:
            size, reason = " × ".join(map(str, images.shape[1:])), one_line(error).rstrip(".") or type(error).__name__
            raise OptionError(
                f"the network cannot take images of {size} ({reason}); change their size, or the size in its arguments"
            ) from error
    done = sorted((run for run in runs if run.calls), key=lambda run: run.ended)
    places = _places(done, entry, layers, total=counter.get_total_flops(), passed=_passages(output, entry.grad_fn))
    last = _output_layer(done, places)
    output_layer = None if last is None else places[last.name]
    return Trace(tuple(places.values()), _features(done, places, last), output_layer, _declared(model, places))


def _watch(stack: ExitStack, runs: Sequence[_Run], counter: FlopCounterMode) -> None:
    ends = count(1)

    def noting(run: _Run) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            run.calls, run.ended, run.flops = run.calls + 1, next(ends), counter.get_total_flops()
            tensor = only_tensor(output)
            run.inputs, run.output = (*inputs, *named.values()), output if tensor is None else tensor
            if tensor is not None:
                run.version, run.node = tensor._version, tensor.grad_fn

        return note

    for run in runs:
        stack.callback(run.module.register_forward_hook(noting(run), with_kwargs=True).remove)


def _places(
    done: Sequence[_Run], entry: Tensor, layers: Mapping[str, Layers], *, total: int, passed: Collection[Any]
) -> dict[str, Place]:
    sources: dict[Any, int] = {}
    places = {}
    for order, run in enumerate(done):
        shape, layout, obstacle = _map(run, entry, layers.get(run.name, ()))
        places[run.name] = Place(
            run.name,
            type(run.module).__name__,
            order,
            shape,
            layout,
            share=run.flops / max(1, total),
            passed=run.node is not None and run.node in passed,
            source=sources.setdefault(run if run.node is None else run.node, len(sources)),
            obstacle=obstacle,
        )
    return places


def _map(run: _Run, images: Tensor, layers: Layers) -> tuple[tuple[int, ...], Layout | None, str]:
    """Return the shape of a submodule's map, its layout, and what keeps it from being tapped."""
    output = run.output
    if run.calls > 1:
        return (), None, f"runs {run.calls} times"
    if not isinstance(output, Tensor):
        return (), None, f"gives {describe(output)}"
    if output.ndim not in (2, 3, 4) or len(output) != len(images) or not output.is_floating_point():
        return (), None, f"gives {tuple(output.shape)} for {len(images)} images"
    try:
        layout = find_layout(output, images, layers, name=run.name)
    except ShapeError:
        return (), None, f"gives {tuple(output.shape)}, {_UNCLEAR}"
    return tuple(arranged(output, layout).shape[1:]), layout, ""


def _passages(output: Any, entry: Any) -> set[Any]:
    """Return the operations that lie on every way through the graph from the images to the output.

    So many ways lead to an operation and so many on from it: it lies on all where their product is the number of all.
    """
    ends = [one.grad_fn for one in _tensors(output) if one.grad_fn is not None]
    order = _topological(ends)
    onward = dict.fromkeys(order, 0)
    for node in ends:
        onward[node] += 1
    for node in order:
        for parent, _ in node.next_functions:
            if parent is not None:
                onward[parent] += onward[node]
    inward = {node: int(node is entry) for node in order}
    for node in reversed(order):
        inward[node] += sum(inward[parent] for parent, _ in node.next_functions if parent is not None)
    ways = onward.get(entry, 0)
    return {node for node in order if inward[node] and inward[node] * onward[node] == ways}


def _topological(ends: Sequence[Any]) -> list[Any]:
    """Return all operations behind these, each before those that it reads from."""
    found: dict[Any, None] = {}
    stack = [(node, False) for node in ends]
    open_: set[Any] = set()
    while stack:
        node, left = stack.pop()
        if left:
            found[node] = None
        elif node not in open_:
            open_.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.next_functions if parent is not None]
    return list(reversed(found))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from _tensors(one)
    elif isinstance(output, tuple | list):
        for one in output:
            yield from _tensors(one)
    elif is_dataclass(output):
        yield from _tensors([vars(output).get(one.name) for one in fields(output)])


def _output_layer(done: Sequence[_Run], places: Mapping[str, Place]) -> _Run | None:
    """Find the layer with parameters that runs last, unless it is the end of a backbone."""
    _, passed = _usable(done, places)
    learning = [run for run in passed if next(run.module.parameters(recurse=False), None) is not None]
    return learning[-1] if learning and _gives_logits(learning[-1].module) else None


def _usable(done: Sequence[_Run], places: Mapping[str, Place]) -> tuple[list[_Run], list[_Run]]:
    """Return what can be tapped, and of it what all that reaches the output passes through."""
    usable = [run for run in done if not places[run.name].obstacle]
    # Without a graph from output to images, what runs last has to do.
    return usable, [run for run in usable if places[run.name].passed] or usable


def _features(done: Sequence[_Run], places: Mapping[str, Place], last: _Run | None) -> Place | None:
    """Find what gives the last hidden features, which the output layer reads; without one they are the output."""
    usable, passed = _usable(done, places)
    if last is not None:
        usable, passed = ([run for run in some if run.ended < last.ended] for some in (usable, passed))
        # Changed in place later, they would be tapped as they were before: without their activation.
        sharing = [run for run in passed if not run.overwritten and _shares(run.output, last.inputs[0])]
        same = [run for run in sharing if run.output.numel() == last.inputs[0].numel()]
        if same:
            return places[min(same, key=lambda run: (run.output.ndim, run.name.count("."), run.ended)).name]
        if sharing:
            return places[min(sharing, key=lambda run: (run.name.count("."), -run.ended)).name]
    if not usable:
        return None
    # Where several ways lead on, what all passes through may lie far before the end.
    ending_here = bool(passed) and passed[-1].flops == max(run.flops for run in usable)
    final = places[(passed if ending_here else usable)[-1].name].source
    ending = [places[run.name] for run in usable if places[run.name].source == final]
    return min(ending, key=lambda place: (place.depth, place.order))


def _gives_logits(module: nn.Module) -> bool:
    """Whether a network's last layer with parameters is its output layer, not the end of a backbone."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _shares(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _declared(model: nn.Module, places: Mapping[str, Place]) -> tuple[Place, ...]:
    """Return the ends of the stages as networks of timm name them, where all of them can be tapped."""
    stages: Any = ()
    whole: object = model
    match whole:
        case object(feature_info=object(info=[*found])):
            stages = found
        case object(feature_info=[*found]):
            stages = found
    names = [stage["module"] for stage in stages if isinstance(stage, Mapping) and "module" in stage]
    ends = [places[name] for name in names if name in places and not places[name].obstacle]
    return tuple(ends) if len(ends) == len(stages) else ()
