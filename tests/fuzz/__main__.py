"""Damage files in a million ways and read them: ``python -m tests.fuzz [--inputs 1000000] [--only READER …]``.

Each reader runs in a process of its own, with limits on memory and on the time of an input; a process that dies or
hangs is a finding too, and the next one continues after the input that did it. An input is named by its reader and
number, from which it can be made again.
"""

import argparse
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from svdistill.errors import SvdistillError
from tests.fuzz.edits import damaged, draw
from tests.fuzz.readers import Reader, make

MEMORY = 3 << 30  # bytes of address space beyond what a process begins with
SECONDS = 20  # of one input
LONGEST = 2000  # characters of a message


def made(name: str, reader: Reader, number: int) -> bytes:
    """Return the input of a number."""
    random = Random(f"{name}:{number}")
    return damaged(random.choice(reader.contents), draw(random))


def finding(reader: Reader, content: bytes) -> str:
    """Read one input, and say what came out of it but a value or our own error of one line; "" where nothing did."""
    try:
        reader.read(content)
    except SvdistillError as error:
        text = str(error)
        return "a message of several lines, or long" if "\n" in text or len(text) > LONGEST else ""
    except Exception as error:
        frames, trace = [], error.__traceback__
        while trace is not None:
            frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        return f"{type(error).__name__} at {frames[-1]}"
    return ""


def worker(name: str, reader: Reader, first: int, end: int, shared: mmap.mmap, report: int) -> None:
    """Read inputs one after the other; the number of the present one stands in shared memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, end):
        shared[:8] = number.to_bytes(8)
        if found := finding(reader, made(name, reader, number)):
            os.write(report, f"{number} {found}\n".encode()[:400])
    shared[:8] = end.to_bytes(8)


def explore(name: str, reader: Reader, inputs: int) -> Counter[str]:
    """Give a reader its inputs; print each kind of finding when it first comes, and return how often each came."""
    shared = mmap.mmap(-1, 8)
    found: Counter[str] = Counter()
    first = 0
    while first < inputs:
        end, reads, writes = inputs, *os.pipe()
        os.set_blocking(reads, False)
        child = os.fork()
        if not child:
            worker(name, reader, first, end, shared, writes)
            os._exit(0)
        os.close(writes)
        died = watch(child, shared, reads, found, name)
        os.close(reads)
        number = int.from_bytes(shared[:8])
        if died:
            note(found, name, number, died)
        first = number + 1 if number < end else end
    return found


def watch(child: int, shared: mmap.mmap, reads: int, found: Counter[str], name: str) -> str:
    """Wait for a process, end it where an input takes too long, and return how it died; "" where it came to its end."""
    number, since, text, killed = -1, time.monotonic(), b"", False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        try:
            while part := os.read(reads, 65536):
                text += part
        except BlockingIOError:
            pass
        *lines, text = text.split(b"\n")
        for line in lines:
            at, _, what = line.decode(errors="replace").partition(" ")
            note(found, name, int(at), what)
        if ended:
            return (
                f"more than {SECONDS} s"
                if killed
                else f"signal {-code}"
                if (code := os.waitstatus_to_exitcode(status)) < 0
                else f"status {code}"
                if code
                else ""
            )
        now = int.from_bytes(shared[:8])
        if now != number:
            number, since = now, time.monotonic()
        elif time.monotonic() - since > SECONDS and not killed:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.05)


def note(found: Counter[str], name: str, number: int, what: str) -> None:
    """Count a finding, and print the first of its kind."""
    if not found[what]:
        print(f"  {name} {number}: {what}", flush=True)
    found[what] += 1


def main() -> int:
    """Run all readers and print a table; the status is 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all readers together")
    parser.add_argument("--only", nargs="*", default=[], metavar="READER")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readers = {name: one for name, one in make(Path(folder)).items() if not chosen.only or name in chosen.only}
        shares = sum(reader.share for reader in readers.values())
        rows = []
        for name, reader in readers.items():
            inputs = max(20, -(-chosen.inputs * reader.share // shares))
            started = time.monotonic()
            found = explore(name, reader, inputs)
            rows.append((name, inputs, found))
            print(
                f"{name}: {inputs:,} inputs, {found.total()} findings, {time.monotonic() - started:.0f} s", flush=True
            )
    print("\n| reader | inputs | findings |\n|---|---:|---|")
    for name, inputs, found in rows:
        print(f"| {name} | {inputs:,} | {'; '.join(f'{what} ({n})' for what, n in found.items()) or 'none'} |")
    print(f"| all | {sum(inputs for _, inputs, _ in rows):,} | {sum(found.total() for _, _, found in rows)} |")
    return int(any(found for _, _, found in rows))


if __name__ == "__main__":
    sys.exit(main())
