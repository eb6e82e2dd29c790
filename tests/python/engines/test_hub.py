"""The Hub's own command, which uploads for a publisher that has a token alone, as far as it goes without the Hub."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest

import tensorpatch

TOKEN = "hf_aTokenThatMayRead"


class Hub(BaseHTTPRequestHandler):
    """A bucket without files, to which the token may not write."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there = self.path.startswith(("/api/buckets/team/weights/tree?", "/api/buckets/team/weights/paths-info"))
        self.send_response(403 if "xet-write-token" in self.path else 200 if there else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_command_is_understood_and_asks_the_hub_with_our_token(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Path(sys.executable).parent
    if shutil.which("hf", path=str(tools)) is None:
        pytest.skip("the Hub's command is not installed")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(tensorpatch.DeniedError, match="403 Forbidden"):
        with tensorpatch.Publisher("hf://buckets/team/weights/run-7", baseline=tmp_path / "baseline") as publisher:
            publisher.publish({"w": numpy.zeros(3, dtype=numpy.float32)})
    assert ("/api/buckets/team/weights/xet-write-token", f"Bearer {TOKEN}") in Hub.asked
