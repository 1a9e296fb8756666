"""A web server of one page, for browsers on this machine alone."""

import os
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from urllib.parse import urlsplit

from svdistill.errors import OptionError
from svdistill.report.live import SCRIPT_DIGEST, LiveReport
from svdistill.version import __version__

HOST = "127.0.0.1"
PORT = 8321
_TRIED = 20  # ports from the first, before any free one is taken
_LAST = 65_535
_NAMES = frozenset({HOST, "localhost"})  # what a browser on this machine calls it
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'sha256-{SCRIPT_DIGEST}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Server(ThreadingMixIn, TCPServer):
    """Serves the page of some runs until it is shut down; each request has a thread, which ends with the process.

    Args:
        report: makes the page.
        port: where to listen; 0 = any free one.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"  # there, it would let two servers share a port

    def __init__(self, report: LiveReport, port: int) -> None:
        self.report = report
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What a browser is given."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a browser that left before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def open_server(paths: Sequence[Path], port: int | None = None) -> Server:
    """Return a server that listens already.

    Args:
        paths: what it shows, see :class:`LiveReport`.
        port: None = 8321, or the next that is free.

    Raises:
        OptionError: the port is taken, or may not be used.
    """
    report = LiveReport(paths)
    if port is not None:
        try:
            return Server(report, port)
        except OSError as error:
            reason = error.strerror or error
            raise OptionError(f"--port: cannot listen on {port} ({reason}); {_free(port)} is free") from error
    for candidate in (*range(PORT, PORT + _TRIED), 0):
        try:
            return Server(report, candidate)
        except OSError:
            continue
    raise OptionError("--port: no port of this machine is free")


def _free(port: int) -> int:
    """Return a port that is free now: one of the next where there is one, otherwise any."""
    first = min(max(port, 1023) + 1, _LAST)
    for candidate in (*range(first, min(first + _TRIED, _LAST + 1)), 0):
        try:
            with TCPServer((HOST, candidate), BaseHTTPRequestHandler) as server:
                return int(server.server_address[1])
        except OSError:
            continue
    return PORT


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the one page."""

    server: Server
    server_version = f"svdistill/{__version__}"
    sys_version = ""
    timeout = 30  # seconds that a client may take to ask

    def do_GET(self) -> None:
        """Send the page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send what stands before the page."""
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a terminal full of requests helps nobody."""

    def _answer(self, *, body: bool) -> None:
        # A page of somebody else's, opened in this browser, may have a name of its own that leads to this machine.
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or _name_of(hosts[0]) not in _NAMES:
            self.send_error(
                403, explain="This page is for browsers on this machine, by the name 127.0.0.1 or localhost."
            )
            return
        if self.path != "/":
            self.send_error(404, explain="There is one page here: /")
            return
        found = self.server.report.current()
        version = f'"{found.name}"'
        same = self.headers.get("If-None-Match") == version
        self.send_response(304 if same else 200)
        for name, value in {**_HEADERS, "ETag": version}.items():
            self.send_header(name, value)
        if not same:
            self.send_header("Content-Length", str(len(found.html)))
        self.end_headers()
        if body and not same:
            self.wfile.write(found.html)


def _name_of(host: str) -> str | None:
    """Return the name in a Host header, without its port; None where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and parts.username is None and parts.port != -1 else None
    except ValueError:
        return None
