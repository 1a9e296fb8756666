"""``svdistill recipes``."""

from typing import Annotated

import typer

from svdistill.cli.console import results, say

recipes_app = typer.Typer(
    help="List the recipes and methods, or show every setting of one.",
    epilog="Example: svdistill recipes show digits/svd loss.rank=2 > mine.yaml",
)


@recipes_app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List the recipes and methods, or show every setting of one."""
    if context.invoked_subcommand is None:
        list_recipes()


@recipes_app.command("list")
def list_recipes() -> None:
    """List the recipes that come with svdistill."""
    from svdistill import recipes
    from svdistill.report import tables

    console = results()
    console.print(tables.recipes_table((name, recipes.load(name).description) for name in recipes.names()))
    say("every setting of one:  svdistill recipes show NAME [KEY=VALUE]...")


@recipes_app.command("methods")
def list_methods() -> None:
    """List the methods by which any recipe with a teacher can be trained."""
    from svdistill import recipes
    from svdistill.report import tables

    console = results()
    console.print(tables.recipes_table(recipes.methods().items(), heading="method"))
    console.print(
        "by one:      svdistill train RECIPE --method NAME\nby several:  svdistill compare RECIPE --methods A,B",
        markup=False,
        soft_wrap=True,
    )


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
