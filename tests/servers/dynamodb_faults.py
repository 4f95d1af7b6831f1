"""A way to DynamoDB on which requests fail as they do there, never on a test server: refused, or carried out unheard.

Laws.
1. What fails is chosen by operation and number; everything else is passed on, one request after another a connection.
2. `refuse`: nothing reaches the server. `lose`: the server does it, and the connection ends without an answer.
   `cut_off`: likewise, in the middle of an answer that had not said how long it is. `answer_as_gateway`: the server
   does it, and a status without JSON is all that comes back, as when something in between gives up.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from .process import HOST


class _Fault(NamedTuple):
    operation: str
    code: str | None  # None: to be lost, unless there is a status
    reasons: tuple[str, ...] = ()
    heard: float = 0.0  # which part of the answer is not lost
    begins: bool = False  # whether there is one at all
    status: int = 0  # of the answer given in place of the server's


class FaultyWay:
    """Listens on `port`. Close it."""

    def __init__(self, server_port: int) -> None:
        self.asked: Counter[str] = Counter()
        self._faults: list[tuple[_Fault, int, int]] = []
        self._lock = threading.Lock()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operation = self.headers["X-Amz-Target"].rpartition(".")[2]
                fault = way._next_fault(operation)
                if fault is not None and fault.code is not None:
                    self._answer(400, _refusal(fault))
                    return
                server = http.client.HTTPConnection(HOST, server_port, timeout=30)
                server.request("POST", self.path, body, dict(self.headers))
                answer = server.getresponse()
                said = answer.read()
                server.close()
                if fault is not None and fault.status:
                    self._answer(fault.status, b"<html>said by a test</html>")
                    return
                if fault is not None:
                    self.close_connection = True
                    if fault.begins:
                        self.send_response(answer.status)
                        self.end_headers()
                        self.wfile.write(said[: int(len(said) * fault.heard)])
                    return
                self._answer(answer.status, said)

            def _answer(self, status: int, said: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: tests read what the store says."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="faulty-way", daemon=True).start()

    def refuse(self, operation: str, code: str, *reasons: str, times: int = 1, after: int = 0) -> None:
        """The next requests of this operation, `times` of them `after` some, are refused; `reasons`: a transaction."""
        with self._lock:
            self._faults.append((_Fault(operation, code, reasons), after, times))

    def lose(self, operation: str, times: int = 1, after: int = 0) -> None:
        """The next ones are carried out, and their answers lost."""
        with self._lock:
            self._faults.append((_Fault(operation, None), after, times))

    def cut_off(self, operation: str, heard: float) -> None:
        """The next one is carried out, and only this part of its answer's body arrives."""
        with self._lock:
            self._faults.append((_Fault(operation, None, (), heard, True), 0, 1))

    def answer_as_gateway(self, operation: str, status: int, times: int = 1) -> None:
        """The next ones are carried out, and answered with this status by one who does not know."""
        with self._lock:
            self._faults.append((_Fault(operation, None, status=status), 0, times))

    def heal(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def _next_fault(self, operation: str) -> _Fault | None:
        with self._lock:
            self.asked[operation] += 1
            for n, (fault, after, times) in enumerate(self._faults):
                if fault.operation != operation:
                    continue
                if after:
                    self._faults[n] = (fault, after - 1, times)
                    return None
                self._faults[n : n + 1] = [(fault, 0, times - 1)] if times > 1 else []
                return fault
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _refusal(fault: _Fault) -> bytes:
    said: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{fault.code}", "message": "said by a test"}
    if fault.reasons:
        said["CancellationReasons"] = [{"Code": reason, "Message": "said by a test"} for reason in fault.reasons]
    return json.dumps(said).encode()
