"""The settings of a comparison: which of them vary, and which of them mean something to which method."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from svdistill import recipes
from svdistill.errors import RecipeError, SvdistillError
from svdistill.methods import OWN
from svdistill.recipes import files
from svdistill.runs import OF_STAGES

# Settings that only mean something with a teacher; a student alone is trained without them.
_NEED_A_TEACHER = ("loss", "teacher", "data.unlabelled", *OF_STAGES)
_HAVE_OPTIONS = {
    "seed": "the seeds are given beside the settings (--seeds)",
    "loss": "the methods are given beside the settings (--methods)",
    "loss.name": "the methods are given beside the settings (--methods)",
}
_MOST_WAYS = 64  # of many lists, to look for those that belong together


class Cell(NamedTuple):
    """A method with one value of each setting that varies.

    Attributes:
        method: the method.
        values: of those settings that vary and mean something to it.
        settings: all its settings, as ``key=value`` texts.
    """

    method: str
    values: dict[str, Any]
    settings: list[str]


class Grid:
    """The settings of a comparison, sorted into those of all runs and those that vary.

    Attributes:
        recipe: name or path of the recipe.
        axes: for each setting that varies its values, each with the ``key=value`` text that sets it.

    Args:
        recipe: name or path of the recipe.
        overrides: ``key=value`` texts; of two for one key the later one holds.
        methods: those that are compared.

    Raises:
        RecipeError: a setting has an option of its own, cannot be parsed, has no value, or no method accepts it.
    """

    def __init__(self, recipe: str, overrides: Sequence[str], methods: Sequence[str]) -> None:
        self.recipe = recipe
        self.axes: dict[str, list[tuple[Any, str]]] = {}
        self._fixed: dict[str, str] = {}
        lists: dict[str, tuple[list[Any], str]] = {}
        for given in overrides:
            key, value, text = _split(given)
            self._fixed.pop(key, None)
            lists.pop(key, None)
            if isinstance(value, list):
                lists[key] = value, text
            else:
                self._fixed[key] = text
        beside = {key: given for key, given in lists.items() if not _is_of_loss(key)}
        self._losses = {method: self._losses_of(method, _ways(beside)) for method in methods}
        for key in lists:
            self._sort_list(key, lists)

    def _losses_of(self, method: str, ways: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
        """Return the losses of a method by name, each with all its settings; none for a student alone.

        Other settings may be accepted only beside lists, see `_ways`, as fewer epochs are beside lower milestones.
        """
        common = [text for key, text in self._fixed.items() if not _needs_a_teacher(key)]
        errors = []
        for settings in (self._without_losses(), common):
            for beside in ways:
                try:
                    recipe = recipes.load(self.recipe, [*settings, *beside], method=method)
                except RecipeError as error:
                    errors.append(error)
                else:
                    return {loss.name: loss.model_dump() for loss in recipe.loss}
        raise errors[0] from None

    def _without_losses(self) -> list[str]:
        return [text for key, text in self._fixed.items() if not _is_of_loss(key)]

    def _sort_list(self, key: str, lists: Mapping[str, tuple[list[Any], str]]) -> None:
        """Decide whether a list is one value of a setting or the values that it takes in turn.

        A setting may be accepted only beside others that came as lists, see `_ways`, as a mean is beside a deviation.
        """
        values, text = lists[key]
        methods = [method for method in self._losses if self._name(key, method) is not None]
        method = methods[0] if methods else next(iter(self._losses))
        others = {name: given for name, given in lists.items() if name != key and self._name(name, method) == name}
        if any(self._accepts([text, *beside], method) for beside in _ways(others)):
            self._fixed[key] = text
            return
        if not values:
            raise RecipeError(f"{key}: expected at least one value between the brackets")
        distinct = {json.dumps(value): value for value in values}
        self.axes[key] = [(value, f"{key}={written}") for written, value in distinct.items()]

    def _accepts(self, texts: Sequence[str], method: str) -> bool:
        fixed = [setting for key, setting in self._fixed.items() if self._name(key, method) == key]
        try:
            recipes.lineage(recipes.load(self.recipe, [*fixed, *texts], method=method))
        except SvdistillError:
            return False
        return True

    def _name(self, key: str, method: str) -> str | None:
        """Return what a setting is called in a method's recipe; None where it means nothing there."""
        losses = self._losses[method]
        if _needs_a_teacher(key) and not losses:
            return None
        section, *rest = key.split(".")
        if section != "loss" or not rest:
            return key
        if rest[0] in losses:
            return key if len(rest) > 1 and rest[1] in losses[rest[0]] else None
        owners = [name for name, loss in losses.items() if rest[0] in loss]
        if not owners:
            return None
        # Where several losses of a sum have it, the recipe's own error says what to write.
        return f"loss.{owners[0]}.{'.'.join(rest)}" if len(owners) == 1 and len(losses) > 1 else key

    def check_meaning(self) -> None:
        """Refuse a setting that means nothing to any of the methods, with the reason that a recipe itself gives.

        Raises:
            RecipeError: there is such a setting.
        """
        helped = [method for method, losses in self._losses.items() if losses]
        unused = False
        for key in (*self._fixed, *self.axes):
            if any(self._name(key, method) is not None for method in self._losses):
                continue
            if helped or key not in self._fixed or _is_of_loss(key):
                raise self._meaningless(key, helped)
            unused = True
        if unused:
            # Settings of a teacher that none of the methods needs do no harm if they are right; our own method has one.
            recipes.lineage(recipes.load(self.recipe, self._without_losses(), method=OWN))

    def _meaningless(self, key: str, helped: Sequence[str]) -> RecipeError:
        """Return the error for a setting that means nothing; of several methods' reasons, the most helpful one."""
        text = self._fixed[key] if key in self._fixed else self.axes[key][0][1]
        reasons = [reason for method in helped if (reason := self._reason(text, method))]
        # The method that has something like it knows best what was meant.
        misspelt = [reason for reason in reasons if "did you mean" in str(reason)]
        # A setting of another loss, spelt correctly, is not a misspelling; a near match among a loss's own comes first.
        last = key.rpartition(".")[2]
        misspelt = [reason for reason in misspelt if f"did you mean {last!r} of" not in str(reason)]
        if misspelt:
            return min(misspelt, key=lambda reason: " of loss " in str(reason))
        return RecipeError(f"{key}: means nothing to {', '.join(self._losses)}; leave it out or add a method")

    def _reason(self, text: str, method: str) -> RecipeError | None:
        try:
            recipes.load(self.recipe, [text], method=method)
        except RecipeError as error:
            return error
        return None

    def cells(self) -> Iterator[Cell]:
        """Yield every combination of a method with values of the axes, method by method within each combination.

        A method that an axis means nothing to comes once for each of its values, the same each time.
        """
        for choice in itertools.product(*self.axes.values()):
            for method in self._losses:
                yield self._cell(method, dict(zip(self.axes, choice, strict=True)))

    def _cell(self, method: str, choice: Mapping[str, tuple[Any, str]]) -> Cell:
        texts = {**self._fixed, **{key: text for key, (_, text) in choice.items()}}
        values, settings = {}, []
        for key, text in texts.items():
            name = self._name(key, method)
            if name is not None:
                settings.append(name + text[len(key) :])
                if key in choice:
                    values[key] = choice[key][0]
        return Cell(method, values, settings)


def _ways(lists: Mapping[str, tuple[list[Any], str]]) -> list[Sequence[str]]:
    """Return the texts that may have to stand beside a setting: none, or each list, as it is or by its first value."""
    each = [(text, *(f"{key}={json.dumps(value)}" for value in values[:1])) for key, (values, text) in lists.items()]
    return [[], *itertools.islice(itertools.product(*each), _MOST_WAYS)] if each else [[]]


def _split(text: str) -> tuple[str, Any, str]:
    """Return the key and the value of a ``key=value`` text, and the text without blanks in its key."""
    value: Any = files.parse([text])
    key = ".".join(part.strip() for part in text.partition("=")[0].split("."))
    if key in _HAVE_OPTIONS:
        raise RecipeError(f"{key}: {_HAVE_OPTIONS[key]}")
    for part in key.split("."):
        value = value[part]
    return key, value, f"{key}={text.partition('=')[2]}"


def _is_of_loss(key: str) -> bool:
    return key.partition(".")[0] == "loss"


def _needs_a_teacher(key: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in _NEED_A_TEACHER)
