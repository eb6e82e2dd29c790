"""Keeping servers up with a stream, when they fail and when the store does."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
import servers

from tensorpatch import Error, Publisher, TransientError, UntrustedError
from tensorpatch.follow import NotTakenError, keep_up
from tensorpatch.http import NoSuchCallError
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
    failed = seen[0][2]
    assert isinstance(failed, NotTakenError)
    assert (str(failed), failed.again) == ("no room", 0.002)
    assert seen[3] == ("broken", 7, 7)


def test_a_newer_version_is_tried_at_once_and_its_waits_begin_anew() -> None:
    tried: list[int] = []
    looks = 0

    def newest() -> int:
        nonlocal looks
        looks += len(tried) == 3
        return 2 if len(tried) == 3 else 1

    def fails(version: int) -> None:
        tried.append(version)
        raise Error("no room")

    kept = keep_up(newest, {"server": fails}, poll=0.01)
    waits = [next(kept)[2].again for _ in range(4)]
    assert tried == [1, 1, 1, 2]
    assert waits == [0.02, 0.04, 0.08, 0.02]
    # It was not waited for what the former version had left to wait.
    assert looks == 1


def test_what_does_not_know_the_call_is_given_up_unless_it_once_did() -> None:
    versions = iter([1, 2, 3])

    def never(_: int) -> None:
        raise NoSuchCallError("404")

    def once(version: int) -> int:
        return version if version == 1 else never(version) or 0

    kept = keep_up(lambda: next(versions), {"another program": never, "server": once}, poll=0)
    seen = [next(kept) for _ in range(4)]
    assert [(name, version) for name, version, _ in seen] == [
        ("another program", 1), ("server", 1), ("server", 2), ("server", 3),
    ]  # fmt: skip
    assert seen[0][2].next_try == "it is not tried again"
    assert "next try in" in seen[3][2].next_try
    assert [name for name, _, _ in keep_up(lambda: 1, {"a": never, "b": never}, poll=0)] == ["a", "b"]


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
