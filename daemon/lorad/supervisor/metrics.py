"""`[metrics]`: serves `GET /metrics` to whoever may connect, from a thread of its own.

It is small on purpose: a request is read to the end of its head, within limits of size and time, and each
connection is answered once and closed. More connections than a few are turned away, so that nobody who
reaches the port can hold the daemon's memory or time. Which figures there are is in `lorad.supervisor.figures`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from loracore.control import Status
from loracore.errors import UsageError
from loracore.settings import host_port

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 4
MAX_HEAD = 8192
#: For a whole connection, from its first byte to the last of the answer.
SECONDS = 5.0


class MetricsServer:
    """Listens on `listen` (`host:port`) from `start` to `stop`.

    `status` is called in the server's thread; it returns the newest status known (None before there is one),
    without waiting.
    """

    def __init__(self, listen: str, status: Callable[[], Status | None]) -> None:
        # prometheus-client takes a tenth of a second to import, which a daemon without metrics does not pay.
        from lorad.supervisor.figures import Figures  # noqa: PLC0415

        self.listen = listen
        self._figures = Figures(status)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._open = 0

    def start(self) -> None:
        """Listen from now on. Raises UsageError where that cannot be."""
        listening = _listening(self.listen)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, listening), name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, drop who is connected, and end the thread."""
        if self._loop is not None and self._thread is not None:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop = self._thread = None

    def observe(self, seconds: float) -> None:
        """Count a request on the control socket that was answered after so many seconds. From any thread."""
        self._figures.observe(seconds)

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._connected, sock=listening, limit=MAX_HEAD)
        await self._stop.wait()
        # Who is still connected is cancelled by the runner when this returns.
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    writer.write(await self._answer(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Who asked is gone, or slow, or the daemon ends.
            pass
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"The request is too large.\n")
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"This is not HTTP/1.\n")
        if target.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"There is /metrics only.\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", b"Only GET.\n", "Allow: GET\r\n")
        return _response("200 OK", self._figures.render())


def _response(status: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _listening(listen: str) -> socket.socket:
    try:
        host, port = host_port(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except ValueError:
        raise UsageError(f"[metrics] listen: {listen} is not host:port, such as 127.0.0.1:9570") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"[metrics] listen: {listen}: {reason}; free the port or choose another one") from None
