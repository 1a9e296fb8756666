"""``svdistill recipes``."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from svdistill.cli.arguments import AsJson
from svdistill.cli.console import results, say, say_json

_NARROW = 60  # columns of a terminal that have no room for a long name beside its description


class _OrGroup(TyperGroup):
    """Takes ``recipes digits`` for ``recipes list digits``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["list", *args]
        return super().parse_args(ctx, args)


recipes_app = typer.Typer(
    cls=_OrGroup,
    help="List the recipes and methods, or show every setting of one.",
    epilog="Example: svdistill recipes show digits/svd loss.rank=2 > mine.yaml",
)


@recipes_app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes and methods, or show every setting of one."""
    if context.invoked_subcommand is None:
        list_recipes(as_json=as_json)


@recipes_app.command("list", epilog="Example: svdistill recipes list digits")
def list_recipes(
    group: Annotated[str | None, typer.Argument(metavar="GROUP", help="List the recipes of this group.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="List those of all groups.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the groups of recipes, or with GROUP the recipes in one.

    'svdistill recipes GROUP' does the same.
    """
    from svdistill import recipes
    from svdistill.recipes.groups import GROUPS, in_group

    if group is None and not everything:
        if as_json:
            told = {name: {"recipes": in_group(name), "description": words} for name, words in GROUPS.items()}
            say_json(told)
            return
        _table({f"{name} ({len(in_group(name))})": words for name, words in GROUPS.items()}, "group", "what it is for")
        say("those of a group:  svdistill recipes GROUP")
        return
    names = recipes.names() if group is None else in_group(group)
    found = {name: recipes.load(name).description for name in names}
    if as_json:
        say_json(found)
        return
    _table(found, "recipe", "what it trains")
    say("every setting of one:  svdistill recipes show NAME [KEY=VALUE]...")


@recipes_app.command("methods")
def list_methods(as_json: AsJson = False) -> None:
    """List the methods by which any recipe with a teacher can be trained."""
    from svdistill import recipes

    if as_json:
        say_json(recipes.methods())
        return
    _table(recipes.methods(), "method", "what it trains")
    say("by one:      svdistill train RECIPE --method NAME")
    say("by several:  svdistill compare RECIPE --methods A,B")


def _table(rows: Mapping[str, str], heading: str, what: str) -> None:
    from svdistill.report import tables

    console = results()
    narrow = console.width < _NARROW
    console.print(tables.recipes_table(rows.items(), heading=heading, what=what, narrow=narrow))


@recipes_app.command("show", epilog="Example: svdistill recipes show digits/svd --method fsp")
def show(
    recipe: Annotated[str, typer.Argument(metavar="NAME", help="Name or path of a recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this method instead of the recipe's own.")
    ] = None,
) -> None:
    """Print every setting of a recipe as YAML, checked, with key=value settings applied.

    The output is itself a recipe: write it to a file, change it, and train it by its path.
    """
    import yaml

    from svdistill import recipes
    from svdistill.recipes.naming import check_names

    settings = recipes.load(recipe, overrides or (), method=method)
    check_names(*recipes.lineage(settings), code=False)
    text = yaml.safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=False)
    results().file.write(text)
