"""What the client of vLLM does when a server refuses, against a server that only answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tensorpatch import Publisher
from tensorpatch.http import EngineError, NoSuchCallError, call, wait_until_healthy
from tensorpatch.vllm import Server


class Stub:
    """Answers as vLLM does, notes what it is asked, and fails where it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.served: list[int | None] = [3]
        self.fetched: int | None = None
        self.error: str | None = None
        self.sound = True
        self.updating = False
        self.paused = False
        # What an update leaves: the version that it asks for, if nothing is said.
        self.after_update: list[int | None] | None = None
        self.update_error: str | None = None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.lstrip("/")
                name = body["method"] if path == "collective_rpc" else path
                if name != "tensorpatch_status":
                    stub.asked.append(name)
                if name in stub.unknown:
                    self.answer({"detail": "Not Found"}, 404)
                elif name in stub.refuses:
                    self.answer({"error": stub.refuses[name]}, 500)
                else:
                    self.answer(stub.reply(name, body), 200)

            def do_GET(self) -> None:
                unknown = self.path.lstrip("/") in stub.unknown
                self.answer({"is_paused": stub.paused}, 404 if unknown else 200)

            def answer(self, said: dict[str, Any], code: int) -> None:
                reply = json.dumps(said).encode()
                self.send_response(code)
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
        if name in ("pause?mode=keep", "resume"):
            self.paused = name != "resume"
        if name == "update_weights":
            served = self.after_update
            self.served = [body["update_info"]["version"]] * len(self.served) if served is None else served
            self.error = self.update_error
        worker = {"fetched": self.fetched, "fetching": None, "error": self.error, "route": "scatter", "reason": ""}
        worker |= {"sound": self.sound, "updating": self.updating}
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
    with pytest.raises(EngineError, match="no room.*; the server goes on with what it served"):
        Server(stub.url).update(4)
    assert stub.asked[-1] == "resume"


@pytest.mark.parametrize("served", [[None], [3, None], [3, 4]])
def test_a_server_that_holds_a_mixture_stays_paused(stub: Stub, served: list[int | None]) -> None:
    stub.after_update, stub.update_error = served, "version 4 was not loaded: no room"
    with pytest.raises(EngineError, match="version 4 was not loaded: no room; the server is paused until an update"):
        Server(stub.url).update(4)
    assert "resume" not in stub.asked
    # The update is not left open, and the server is told no version that it does not serve.
    assert stub.asked[-1] == "finish_weight_update"


def test_an_update_that_a_client_left_open_is_closed_first(stub: Stub) -> None:
    stub.updating = True
    Server(stub.url).update(4)
    assert stub.asked[2:] == ["finish_weight_update", *UPDATE, "resume"]


def test_a_server_that_fails_while_it_connects_says_why_and_is_paused_if_its_weights_are_not_sound(stub: Stub) -> None:
    stub.error = "no such stream"
    with pytest.raises(EngineError, match="no such stream; the server goes on"):
        Server(stub.url).connect("stream")
    assert "pause?mode=keep" not in stub.asked
    stub.sound = False
    with pytest.raises(EngineError, match="no such stream; the server is paused"):
        Server(stub.url).connect("stream")


def test_without_the_worker_extension_an_error_of_connecting_is_raised_by_the_server(stub: Stub) -> None:
    stub.refuses["tensorpatch_status"] = "Worker has no attribute 'tensorpatch_status'"
    Server(stub.url).connect("stream")
    assert stub.asked == ["init_weight_transfer_engine"] * 2


def test_a_server_that_cannot_say_what_it_serves_stays_paused(stub: Stub) -> None:
    stub.refuses |= {"update_weights": "no room", "tensorpatch_status": "the worker is gone"}
    server = Server(stub.url)
    server._extended = False
    with pytest.raises(EngineError, match="no room"):
        server.update(4)
    assert "resume" not in stub.asked


def test_what_does_not_know_a_call_is_not_waited_for(stub: Stub) -> None:
    stub.unknown.add("health")
    with pytest.raises(NoSuchCallError, match="/health answers 404"):
        wait_until_healthy(stub.url)


def test_a_server_without_the_calls_of_development_is_told_how_to_be_started(stub: Stub) -> None:
    stub.unknown.add("init_weight_transfer_engine")
    with pytest.raises(NoSuchCallError, match="answers 404.*start the server with VLLM_SERVER_DEV_MODE=1"):
        Server(stub.url).connect("stream")


@pytest.fixture
def published(model: Path, stream: str, tmp_path: Path) -> str:
    Publisher(stream, baseline=tmp_path / "baseline").publish(model)
    return stream


def test_the_follower_says_why_a_version_was_not_taken_over_and_when_it_tries_again(
    stub: Stub, published: str
) -> None:
    stub.after_update, stub.update_error = [None], "version 1 was not loaded: no room"
    command = [sys.executable, "-m", "tensorpatch.vllm", published, "--server", stub.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stderr is not None
        told = follower.stderr.readline().strip()
        follower.terminate()
    assert told == (
        f"version 1 was not taken over: {stub.url}: version 1 was not loaded: no room; the server is paused until an "
        "update succeeds; next try in 2 s, or at once with a newer version"
    )


def test_a_follower_of_sglang_ends_where_there_is_no_sglang(stub: Stub, published: str, tmp_path: Path) -> None:
    stub.unknown.add("update_weights_from_disk")
    command = [sys.executable, "-m", "tensorpatch.sglang", published, str(tmp_path / "replica"), "--server", stub.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "answers 404" in ended.stderr
    assert ended.stderr.strip().endswith("this is no SGLang server; it is not tried again")


def test_a_refusal_names_the_server_and_what_it_said() -> None:
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:1/health does not answer"):
        call("http://127.0.0.1:1/health", timeout=5)
