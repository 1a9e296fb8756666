"""The program's first instants, in a process of its own."""

import subprocess
import sys

import pytest

# Sends Ctrl-C to itself when a module is first looked for.
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["svdistill", *{arguments!r}]
from svdistill.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"), [("typer", ["recipes"]), ("svdistill.cli.train", ["recipes"]), ("torch", ["train", "x.y"])]
)
def test_interrupt_while_importing(module: str, arguments: list[str]) -> None:
    """Ctrl-C ends the program in one line, before its own handlers stand too."""
    code = INTERRUPTED.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted")
    assert done.stderr.count("\n") == 1


def test_little_memory() -> None:
    """Where a library cannot be loaded for want of memory, one line says so."""
    most = 350 << 20
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({most}, {most}));"
    code = limited + "from svdistill.cli import main; main(['evaluate', 'nowhere'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: not enough memory")
    assert done.stderr.count("\n") == 1
