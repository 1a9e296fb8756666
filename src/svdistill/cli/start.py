"""The program's first instants: until its own handlers stand, Ctrl-C and a lack of memory end it in one line too.

Whatever is imported here is imported before anything can be caught, so it is next to nothing.
"""

import os
import sys

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the program and end it with its status; see ``svdistill.cli.app.main``.

    Args:
        arguments: what follows the program's name; None = what it was called with.
    """
    try:
        import signal

        usual = signal.getsignal(signal.SIGINT)
        if usual is signal.default_int_handler:  # not where Ctrl-C is ignored, as in the background
            signal.signal(signal.SIGINT, _leave)
        from svdistill.cli import app

        signal.signal(signal.SIGINT, usual)
        status = app.run(arguments)
        if usual is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)
        app.end(status)
    except KeyboardInterrupt:
        _leave()
    except (ImportError, MemoryError, SystemError) as error:
        if not _is_short_of_memory(error):
            raise
        _end("not enough memory to load what this needs; raise the limit (ulimit -v), or free some", 1)


def _leave(*_: object) -> None:
    # An exception inside an import can be caught there, or turned into another one.
    _end("interrupted", _INTERRUPTED)


def _end(reason: str, status: int) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"error: {reason}\n".encode())
    os._exit(status)


def _is_short_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; a library that fails to load under a limit of memory does so for want of it."""
    if isinstance(error, MemoryError | ModuleNotFoundError):
        return isinstance(error, MemoryError)
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
