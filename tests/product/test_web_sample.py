"""The web sample: a real server and a real worker, killed in between."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.product.test_samples import SAMPLES, running
from tests.waiting import SOON


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_it_answers(client: httpx.Client, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SOON
    while True:
        try:
            client.get("/openapi.json")
            return
        except httpx.TransportError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)


def test_an_order_is_started_watched_and_approved_over_http(tmp_path: Path) -> None:
    port = free_port()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SOON, trust_env=False)
    with client, ThreadPoolExecutor() as threads:
        with running(SAMPLES / "web_shop.py", port, cwd=tmp_path) as server:
            until_it_answers(client, server)
            assert client.get("/orders/42").status_code == 404
            assert client.post("/orders/42", params={"item": "book"}).json() == "42"
            assert client.post("/orders/42", params={"item": "book"}).json() == "42"
            assert client.get("/orders/42").json()["status"] in ("PENDING", "RUNNING")
            server.send_signal(signal.SIGKILL)
            server.wait(SOON)
        with running(SAMPLES / "web_shop.py", port, cwd=tmp_path) as server:
            until_it_answers(client, server)
            waiting = [threads.submit(client.get, "/orders/42/outcome") for _ in range(4)]
            assert client.post("/orders/42/approval", params={"approved": True}).status_code == 200
            assert [one.result(SOON).json() for one in waiting] == ["book is on its way"] * 4
            assert client.get("/orders/42").json() == {
                "status": "COMPLETED",
                "item": "book",
                "outcome": "book is on its way",
            }
            server.send_signal(signal.SIGTERM)
            assert server.wait(SOON) in (0, -signal.SIGTERM)
