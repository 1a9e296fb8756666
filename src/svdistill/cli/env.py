"""``svdistill env``."""

from svdistill.cli.arguments import AsJson
from svdistill.cli.console import say, say_json


def env(as_json: AsJson = False) -> None:
    """Say what svdistill runs on, for a report of a fault.

    Versions, processor and its instructions, torch and GPUs, libraries,
    variables of the environment, folders. Look through it before you post it.
    """
    from svdistill.surroundings import as_lines, surroundings

    found = surroundings()
    if as_json:
        say_json(found)
        return
    for line in as_lines(found):
        say(line)
