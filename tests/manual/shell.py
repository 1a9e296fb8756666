"""Commands as pages show them, and whether the program would take them."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from manual.commands import every
from markdown_it import MarkdownIt
from markdown_it.token import Token

from svdistill import data, nets, recipes
from svdistill.cli.compare import parse_seeds
from svdistill.recipes.groups import GROUPS
from svdistill.recipes.load import images_of
from svdistill.sweep.grid import Grid

ROOT = Path(__file__).parent.parent.parent
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
# What stands for something that the reader has, and what is taken for it here.
_STANDS_FOR = {
    r"\bRECIPE\b": "digits/svd",
    r"(?<=recipes show )NAME\b": "digits/svd",
    r"(?<=--method )NAME\b": "svd",
    r"\bNAME\b": "digits",
    r"\bMODEL\b": "resnet20",
    r"(?<=--jobs )N\b": "3",
    r"\bown\.yaml": "examples/own_model/own.yaml",
}
_OWN_RECIPE = "digits/svd-recommended"  # stands for a recipe of the reader's own
_OUR_MODULES = ("svdistill", "benchmarks", "tests", "manual")
_PROGRAMS = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:torchrun .*-m |srun .*?|nice )?(svdistill|make|python -m) (.*)$")


def lines(page: Path) -> Iterator[str]:
    """Yield the command lines of a page: of its code blocks, and of code inside of sentences."""

    def walk(tokens: list[Token]) -> Iterator[str]:
        for token in tokens:
            if token.type in ("fence", "code_block") and not token.info.startswith(("python", "yaml")):
                yield from token.content.replace("\\\n", " ").splitlines()
            elif token.type == "code_inline":
                yield " ".join(token.content.split())
            yield from walk(token.children or [])

    for line in walk(MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))):
        bare = re.sub(r"(^|\s+)#.*", "", line).strip()
        if _PROGRAMS.match(bare):
            yield bare


def check(line: str) -> None:
    """Raise an error where a line could not be called as it stands: what it names has to exist, not what it reads."""
    program, rest = _PROGRAMS.match(line).groups()
    for pattern, stand_in in _STANDS_FOR.items():
        rest = re.sub(pattern, stand_in, rest)
    words = [word for word in shlex.split(rest.partition(" > ")[0].partition(" | ")[0]) if word.strip("….[]") != ""]
    if program == "make":
        assert all("=" in word or word in TARGETS for word in words), f"no such target of the Makefile: {line}"
    elif program == "python -m":
        module = words[0]
        assert module.partition(".")[0] not in _OUR_MODULES or find_spec(module), f"no such module: {line}"
    else:
        _check_command(words)


def _check_command(words: list[str]) -> None:
    """Parse the words of a command, and look up the recipes, settings, networks and data sets that they name."""
    known = every()
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in known), None)
    if name is None:
        _check_group(words)
        return
    command = known[name]
    rest = words[len(name.split()) :]
    if not rest:  # the bare name of a command in a sentence
        return
    if rest[0].startswith("-"):  # options alone, in a sentence
        rest = [*("digits/svd" for one in command.params if one.param_type_name == "argument" and one.required), *rest]
    with command.make_context(name, rest) as context:
        _check_meaning(name, context.params)


def _check_group(words: list[str]) -> None:
    """Check what is a group of commands alone, or an option of the program itself."""
    groups = {known.split()[0] for known in every() if " " in known}
    if words[0] == "recipes" and len(words) > 1:
        assert words[1] in {*GROUPS, "GROUP"}, f"no such group of recipes: {words[1]}"
        return
    assert words[0] in {*groups, "COMMAND"} or words[0].startswith("--"), f"no such command: {' '.join(words)}"


def _check_meaning(name: str, found: dict[str, object]) -> None:
    """Look up what a command's arguments name."""
    overrides = [text for text in found.get("overrides") or () if "…" not in text and text != "KEY=VALUE"]
    recipe = str(found.get("recipe") or "")
    if recipe.endswith((".yaml", ".yml")) and not (ROOT / recipe).is_file():
        recipe = _OWN_RECIPE
    recipe = str(ROOT / recipe) if recipe.endswith(".yaml") else recipe
    if name == "compare":
        methods = [one for one in str(found["methods"]).split(",") if one not in ("…", "A", "B", "C")]
        grid = Grid(recipe, overrides, methods)
        grid.check_meaning()
        parse_seeds(str(found["seeds"]))
        for cell in grid.cells():
            recipes.load(recipe, cell.settings, method=cell.method)
    elif recipe:
        settings = [f"teacher.{text}" if name == "cache" and text.startswith("views=") else text for text in overrides]
        recipes.load(recipe, settings, method=found.get("method"))
    elif name == "data show":
        images_of(str(found["name"]), overrides)
    elif name == "data fetch":
        assert found["name"] in data.names()
    elif name in ("networks", "taps"):
        wanted = [found.get("taps"), found.get("model"), found.get("pair")]
        for network in (str(one) for one in wanted if one):
            if ":" not in network and not network.endswith((".yaml", ".safetensors")) and "/" not in network:
                assert network in nets.names(), f"no such network: {network}"
