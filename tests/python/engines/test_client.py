"""What the client of vLLM does when a server refuses, against a server that only answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tensorpatch.http import EngineError, call
from tensorpatch.vllm import Server


class Stub:
    """Answers as vLLM does, notes what it is asked, and fails where it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses: dict[str, str] = {}
        self.served: list[int | None] = [3]
        self.fetched: int | None = None
        self.error: str | None = None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.lstrip("/")
                name = body["method"] if path == "collective_rpc" else path
                if name != "tensorpatch_status":
                    stub.asked.append(name)
                refused = stub.refuses.get(name)
                reply = json.dumps({"error": refused} if refused else stub.reply(name, body)).encode()
                self.send_response(500 if refused else 200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def reply(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name == "tensorpatch_fetch":
            self.fetched = int(body["args"][0])
        worker = {"fetched": self.fetched, "fetching": None, "error": self.error, "route": "scatter", "reason": ""}
        worker |= {"apply_seconds": 0.5, "downloaded": 10}
        return {"results": [{**worker, "served": served} for served in self.served]}


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    thread = threading.Thread(target=stub.http.serve_forever)
    thread.start()
    yield stub
    stub.http.shutdown()
    thread.join()
    stub.http.server_close()


UPDATE = ["start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache"]


def test_a_version_is_fetched_before_the_pause(stub: Stub) -> None:
    update = Server(stub.url).update(4)
    assert stub.asked == ["tensorpatch_fetch", "pause?mode=keep", *UPDATE, "resume"]
    assert (update.version, update.route, update.apply, update.downloaded) == (4, "scatter", 0.5, 10)


def test_without_the_worker_extension_the_update_fetches(stub: Stub) -> None:
    stub.refuses["tensorpatch_fetch"] = "Worker has no attribute 'tensorpatch_fetch'"
    server = Server(stub.url)
    assert server.update(4).route == "unknown"
    server.update(5)
    assert stub.asked.count("tensorpatch_fetch") == 1


def test_a_version_that_cannot_be_fetched_pauses_nothing(stub: Stub) -> None:
    stub.error = "version 4 was not fetched: no such version"
    with pytest.raises(EngineError, match="no such version"):
        Server(stub.url).update(4)
    assert stub.asked == ["tensorpatch_fetch"]


def test_a_server_that_still_serves_what_it_did_goes_on_after_a_failure(stub: Stub) -> None:
    stub.refuses["update_weights"] = "no room"
    with pytest.raises(EngineError, match="no room"):
        Server(stub.url).update(4)
    assert stub.asked[-1] == "resume"


@pytest.mark.parametrize("served", [[None], [3, None], [3, 4]])
def test_a_server_that_holds_a_mixture_stays_paused(stub: Stub, served: list[int | None]) -> None:
    stub.served = served
    stub.refuses["update_weights"] = "no room"
    with pytest.raises(EngineError, match="no room"):
        Server(stub.url).update(4)
    assert "resume" not in stub.asked


def test_a_server_that_cannot_say_what_it_serves_stays_paused(stub: Stub) -> None:
    stub.refuses |= {"update_weights": "no room", "tensorpatch_status": "the worker is gone"}
    server = Server(stub.url)
    server._extended = False
    with pytest.raises(EngineError, match="no room"):
        server.update(4)
    assert "resume" not in stub.asked


def test_a_refusal_names_the_server_and_what_it_said() -> None:
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:1/health does not answer"):
        call("http://127.0.0.1:1/health", timeout=5)
