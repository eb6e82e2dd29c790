"""Drives a vLLM server over HTTP: fetch while it generates, then pause, update, resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..http import EngineError, call, wait_until_healthy


@dataclass(frozen=True)
class Update:
    """What bringing a version into a server took. Times are in seconds."""

    version: int
    route: str  # "scatter", "reload", or "none"; "unknown" without the worker extension
    reason: str  # why not a scatter
    fetch: float  # download, decode, verify: the server generates meanwhile
    pause: float  # from the call that pauses to the reply of the one that resumes
    apply: float  # the part of the pause in which weights changed
    downloaded: int  # bytes, all hosts together


class Server:
    """A vLLM server that was started with `VLLM_SERVER_DEV_MODE=1`, the backend and the worker extension."""

    def __init__(self, url: str, *, timeout: float = 1800) -> None:
        """`timeout` bounds each call, and the wait for a fetch, in seconds."""
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._extended = True

    def wait_until_ready(self, timeout: float = 600) -> None:
        """Waits until the server answers."""
        wait_until_healthy(self.url, timeout)

    def connect(self, stream: str, *, directory: str | None = None, trust: Sequence[str] = ()) -> None:
        """Tells the server which stream to read. It recognises the version that it was started with, if it can."""
        info = {"url": stream, "directory": directory, "trust": list(trust)}
        self._post("init_weight_transfer_engine", {"init_info": info})

    def weight_version(self) -> str:
        """The version that the server says it serves: that of the stream, or `default` before the first update."""
        return str(call(f"{self.url}/weight_info", timeout=self._timeout)["weight_version"])

    def checksums(self) -> dict[str, str]:
        """A SHA-256 of each parameter in the memory of the server."""
        return dict(self._post("weight_checker", {"action": "checksum"})["checksums"])

    def status(self) -> list[dict[str, Any]]:
        """What each worker serves and has fetched."""
        return list(self._rpc("tensorpatch_status"))

    def fetch(self, version: int, *, poll: float = 0.05) -> float:
        """Has every host fetch and verify a version, and waits for it. The server goes on generating."""
        started = time.perf_counter()
        if not self._begin_fetch(version):
            return 0.0
        while time.perf_counter() - started < self._timeout:
            workers = self.status()
            if failed := next((w["error"] for w in workers if w["error"] is not None), None):
                raise EngineError(f"{self.url}: {failed}")
            if all(w["fetched"] == version and w["fetching"] is None for w in workers):
                return time.perf_counter() - started
            time.sleep(poll)
        raise EngineError(f"{self.url} did not fetch version {version} in {self._timeout} s")

    def _begin_fetch(self, version: int) -> bool:
        if self._extended:
            try:
                self._rpc("tensorpatch_fetch", str(version))
            except EngineError as error:
                if "tensorpatch_fetch" not in str(error):
                    raise
                # Without the extension the fetch is part of the update, and of the pause.
                self._extended = False
        return self._extended

    def update(self, version: int) -> Update:
        """Brings a version into the server: fetches it, then pauses, changes the weights and resumes.

        If the weights could not be changed the server stays paused, unless it still serves what it served before.
        """
        fetch = self.fetch(version)
        started = time.perf_counter()
        self._post("pause", {}, mode="keep")
        try:
            self._post("start_weight_update", {})
            self._post("update_weights", {"update_info": {"version": version}})
            self._post("finish_weight_update", {"weight_version": str(version)})
            # What was computed with the old weights is not for new requests.
            self._post("reset_prefix_cache", {})
        except EngineError:
            if self._serves_one_version():
                self._post("resume", {})
            raise
        self._post("resume", {})
        pause = time.perf_counter() - started
        workers = self.status() if self._extended else []
        return Update(
            version=version,
            route=workers[0]["route"] if workers else "unknown",
            reason=workers[0]["reason"] if workers else "",
            fetch=fetch,
            pause=pause,
            apply=max((w["apply_seconds"] for w in workers), default=0.0),
            downloaded=sum(w["downloaded"] for w in workers),
        )

    def _serves_one_version(self) -> bool:
        try:
            served = {worker["served"] for worker in self.status()}
        except EngineError:
            return False
        return len(served) == 1 and None not in served

    def _post(self, path: str, body: dict[str, Any], **query: str) -> Any:
        return call(f"{self.url}/{path}", body, timeout=self._timeout, **query)

    def _rpc(self, method: str, *args: str) -> Any:
        return self._post("collective_rpc", {"method": method, "args": list(args)})["results"]
