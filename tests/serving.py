"""Servers on loopback: one of a few lines that counts, and `transformers serve`."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Stub:
    """Answers each prompt with the number in it, plus one.

    Attributes:
        failures: the statuses of the first answers.
        bodies: what was asked, failures too.
        keys: the authorizations that came along.
        address: the URL of its API.
    """

    failures: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Mapping[str, Any]]:
        self.bodies.append(body)
        self.keys.append(key)
        if self.failures:
            return self.failures.pop(0), {"error": {"message": f"not now, {key}"}}
        text = body.get("prompt") or body["messages"][-1]["content"]
        said = str(int("".join(each for each in text if each.isdigit())) + 1)
        if path.endswith("/chat/completions"):
            return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        return 200, {"choices": [{"index": 0, "text": said}]}


@contextlib.contextmanager
def answering() -> Iterator[Stub]:
    """Serve a stub that answers."""
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, content = state.answer(self.path, body, self.headers["authorization"])
            written = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *given: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """Serve a model's folder; give the address."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}/health", process, log)
        yield address
    finally:
        process.terminate()
        process.wait(120)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=1)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())
