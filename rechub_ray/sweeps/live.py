"""The page on a sweep while it runs, served to browsers of this host."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

from rechub_ray.errors import ConfigError
from rechub_ray.reports import live_page

PORT = 8642
_HOST = "127.0.0.1"
_SECONDS = 5
"""Between two loads of the page in a browser; it is made again at most as often."""


@contextlib.contextmanager
def served(directory: str, port: int) -> Iterator[str]:
    """Serve the page on the sweep in a folder as long as the block lasts; yield its address.

    Args:
        directory: the sweep's folder, which need not be there yet.
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        ConfigError: the port is not free.
    """
    lock, made = threading.Lock(), b""
    made_at = -_SECONDS * 1.0

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers with the page, whatever the path."""

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            nonlocal made, made_at
            with lock:  # one at a time: drawing takes the processor of the sweep's driver
                if time.monotonic() - made_at >= _SECONDS - 1 or not made:
                    made, made_at = live_page(directory, refresh=_SECONDS).encode(), time.monotonic()
            self._answer(made)

        def _answer(self, body: bytes) -> None:
            # a page elsewhere may have its name point here, and would then read this one
            is_own = (self.headers.get("Host") or "").partition(":")[0] in (_HOST, "localhost")
            self.send_response(200 if is_own else 403)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if is_own:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    try:
        server = http.server.ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--serve: cannot serve the sweep's page on port {port} of {_HOST}",
            got=getattr(error, "strerror", None) or error,
            hint="Name another port, or 0 for any that is free.",
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="rechub-live", daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
