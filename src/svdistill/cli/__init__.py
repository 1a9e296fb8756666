"""The command line; a command's own module imports torch only when the command runs."""

from svdistill.cli.start import main

__all__ = ["main"]
