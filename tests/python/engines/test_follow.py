"""Keeping servers up with a stream, when they fail and when the store does."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
import servers

from tensorpatch import Error, Publisher, TransientError, UntrustedError
from tensorpatch.follow import keep_up
from tensorpatch.sglang import Follower


def test_each_server_gets_the_newest_version_once() -> None:
    versions = iter([1, 1, 4])
    stop = Event()
    taken: list[tuple[str, int]] = []

    def newest() -> int | None:
        version = next(versions, None)
        if version is None:
            stop.set()
        return version

    takers = {name: lambda version, name=name: taken.append((name, version)) for name in ("a", "b")}
    for _ in keep_up(newest, takers, poll=0, stop=stop):
        pass
    assert taken == [("a", 1), ("b", 1), ("a", 4), ("b", 4)]


def test_a_server_that_fails_is_tried_again_and_holds_up_nobody() -> None:
    failures = iter([Error("no room"), Error("no room")])

    def fails(version: int) -> int:
        error = next(failures, None)
        if error is not None:
            raise error
        return version

    kept = keep_up(lambda: 7, {"broken": fails, "sound": lambda version: version}, poll=0.001)
    seen = [next(kept) for _ in range(4)]
    assert [name for name, _, _ in seen] == ["broken", "sound", "broken", "broken"]
    assert isinstance(seen[0][2], Error)
    assert seen[3] == ("broken", 7, 7)


def test_a_store_that_does_not_answer_is_asked_again_and_a_forged_stream_is_not() -> None:
    answers = iter([TransientError("try again"), 3, UntrustedError("not signed")])

    def newest() -> int | None:
        answer = next(answers)
        if isinstance(answer, Error):
            raise answer
        return answer

    kept = keep_up(newest, {"server": lambda version: version}, poll=0)
    assert next(kept) == ("server", 3, 3)
    with pytest.raises(UntrustedError):
        next(kept)


def test_a_server_that_does_not_answer_is_named(model: Path, stream: str, tmp_path: Path) -> None:
    Publisher(stream, baseline=tmp_path / "baseline").publish(model)
    url = f"http://127.0.0.1:{servers.free_port()}"
    name, version, error = next(Follower(stream, tmp_path / "replica", [url]).follow())
    assert (name, version) == (url, 1)
    assert "does not answer" in str(error)
    assert (tmp_path / "replica" / "model.safetensors").exists()
