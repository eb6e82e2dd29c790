"""Drives a vLLM server over HTTP: fetch while it generates, then pause, update, resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..http import EngineError, NoSuchCallError, call, wait_until_healthy


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
        try:
            self._post("init_weight_transfer_engine", {"init_info": {**info, "quiet": True}})
        except NoSuchCallError as error:
            raise NoSuchCallError(f"{error}; start the server with VLLM_SERVER_DEV_MODE=1") from error
        workers = self._workers("tensorpatch_status")
        if not self._extended:
            # Without the extension the errors are not to be had otherwise.
            self._post("init_weight_transfer_engine", {"init_info": info})
        if not all(worker["sound"] for worker in workers):
            self._post("pause", {}, mode="keep")
        if (failed := _first_error(workers)) is not None:
            raise EngineError(f"{self.url}: {failed}{self._standing()}")

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
        self._workers("tensorpatch_fetch", str(version))
        if not self._extended:
            # Then the fetch is part of the update, and of the pause.
            return 0.0
        while time.perf_counter() - started < self._timeout:
            workers = self.status()
            if (failed := _first_error(workers)) is not None:
                raise EngineError(f"{self.url}: {failed}")
            if all(w["fetched"] == version and w["fetching"] is None for w in workers):
                return time.perf_counter() - started
            time.sleep(poll)
        raise EngineError(f"{self.url} did not fetch version {version} in {self._timeout} s")

    def update(self, version: int) -> Update:
        """Brings a version into the server: fetches it, then pauses, changes the weights and resumes.

        If the weights could not be changed the server stays paused, unless it still serves what it served before. The
        error says why, and whether the server is paused.
        """
        try:
            return self._update(version)
        except EngineError as error:
            raise type(error)(f"{error}{self._standing()}") from error

    def _update(self, version: int) -> Update:
        fetch = self.fetch(version)
        started = time.perf_counter()
        self._post("pause", {}, mode="keep")
        try:
            workers = self._change(version)
            # What was computed with the old weights is not for new requests.
            self._post("reset_prefix_cache", {})
        except EngineError:
            if self._serves_one_version():
                self._post("resume", {})
            raise
        self._post("resume", {})
        return Update(
            version=version,
            route=workers[0]["route"] if workers else "unknown",
            reason=workers[0]["reason"] if workers else "",
            fetch=fetch,
            pause=time.perf_counter() - started,
            apply=max((w["apply_seconds"] for w in workers), default=0.0),
            downloaded=sum(w["downloaded"] for w in workers),
        )

    def _change(self, version: int) -> list[dict[str, Any]]:
        if self._extended and any(worker["updating"] for worker in self.status()):
            self._post("finish_weight_update", {})
        self._post("start_weight_update", {})
        self._post("update_weights", {"update_info": {"version": version, "quiet": self._extended}})
        workers = self.status() if self._extended else []
        if any(worker["served"] != version for worker in workers):
            self._post("finish_weight_update", {})
            raise EngineError(f"{self.url}: {_first_error(workers) or f'not every worker took version {version} over'}")
        self._post("finish_weight_update", {"weight_version": str(version)})
        return workers

    def _serves_one_version(self) -> bool:
        try:
            served = {worker["served"] for worker in self.status()}
        except EngineError:
            return False
        return len(served) == 1 and None not in served

    def _standing(self) -> str:
        """What the server does after an error, as the end of a sentence."""
        try:
            paused = call(f"{self.url}/is_paused", timeout=min(self._timeout, 30))["is_paused"]
        except EngineError:
            return ""
        return f"; the server {'is paused until an update succeeds' if paused else 'goes on with what it served'}"

    def _post(self, path: str, body: dict[str, Any], **query: str) -> Any:
        return call(f"{self.url}/{path}", body, timeout=self._timeout, **query)

    def _workers(self, method: str, *args: str) -> list[dict[str, Any]]:
        """Calls the extension; without it, notes that it is not there."""
        if self._extended:
            try:
                return list(self._rpc(method, *args))
            except EngineError as error:
                if method not in str(error):
                    raise
                self._extended = False
        return []

    def _rpc(self, method: str, *args: str) -> Any:
        return self._post("collective_rpc", {"method": method, "args": list(args)})["results"]


def _first_error(workers: list[dict[str, Any]]) -> str | None:
    return next((worker["error"] for worker in workers if worker["error"] is not None), None)
