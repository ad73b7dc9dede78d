"""What one connection may do: uvicorn's protocol with bounds for clients that are slow on purpose."""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from scheduler.api.errors import MEDIA_TYPE, problem
from scheduler.api.limits import Envelope

MAX_CONNECTIONS = 500
HEADERS_WITHIN_SECONDS = 15.0
READ_WITHIN_SECONDS = 60.0


class BoundedProtocol(H11Protocol):
    """One connection.

    It is closed when a request's head does not come in time, or when the client does not read what it asked for, and at
    once when there are too many others.
    """

    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head = _cancel(self._head)
        self._reading = _cancel(self._reading)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; while it is no whole head, the time goes on."""
        super().data_received(data)
        if not self._answering():
            if self._head is None:
                self._expect_head()
        else:
            self._head = _cancel(self._head)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_WITHIN_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._reading = _cancel(self._reading)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        answer = problem(HTTPStatus.BAD_REQUEST, "bad-request", msg)
        headers = [
            ("Content-Type", MEDIA_TYPE),
            ("Content-Length", str(len(answer.body))),
            ("Connection", "close"),
            *Envelope.HEADERS.items(),
        ]
        events = (h11.Response(status_code=400, headers=headers), h11.Data(data=bytes(answer.body)), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        return cycle is not None and not cycle.response_complete

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(HEADERS_WITHIN_SECONDS, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer and return what stands for none."""
    if timer is not None:
        timer.cancel()
    return None
