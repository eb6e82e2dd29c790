"""JSON over HTTP, to engines on the same network."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

from . import StorageError


class EngineError(StorageError):
    """An engine refused a call, or does not answer."""


class NoSuchCallError(EngineError):
    """What answers does not know the call: it is another program, or was started without what is needed."""


def call(url: str, body: dict[str, Any] | None = None, *, timeout: float = 1800, **query: str) -> Any:
    """POSTs `body`, or GETs without one, and returns the JSON of the reply (`None` if there is none)."""
    address = f"{url}?{urlencode(query)}" if query else url
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            text = reply.read()
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        kind = NoSuchCallError if error.code == 404 else EngineError
        raise kind(f"{url} answers {error.code}: {said[:2000]}") from error
    except OSError as error:
        raise EngineError(f"{url} does not answer: {error}") from error
    return json.loads(text) if text.strip() else None


def wait_until_healthy(server: str, timeout: float = 600) -> None:
    """Waits until an engine answers, for so many seconds at most."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            call(f"{server.rstrip('/')}/health", timeout=5)
            return
        except NoSuchCallError:
            raise
        except EngineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
