"""Arguments and states that cannot be are named before anything is done, and errors say what a program can do."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Training

import tensorpatch


@pytest.fixture
def publisher(training: Training) -> tensorpatch.Publisher:
    return tensorpatch.Publisher(training.path("stream"), baseline=training.path("baseline"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"trust": "abc"}, "trust is a list of texts, not 'abc'"),
        ({"carry": "a.log"}, "carry is a list of texts"),
        ({"storage": {"parallel_uploads": 16}}, 'storage is names and values as texts, such as {"parallel_uploads"'),
        ({"anchor_every": -1}, "anchor_every is a number that is not negative, not -1"),
        ({"threads": "two"}, "threads is a number of 1 or more, not 'two'"),
        ({"expect_tip": 0}, "expect_tip is the number of a version: they start at 1, not 0"),
        ({"create": "no"}, "create is True or False, not 'no'"),
        ({"baseline": 3}, "baseline is a path, not 3"),
        ({"progress": 5}, "progress is a callable, True, False or None, not 5"),
    ],
)
def test_an_option_of_a_publisher_that_is_none_is_named(training: Training, options: Any, error: str) -> None:
    with pytest.raises((TypeError, tensorpatch.UsageError), match=error.replace("{", r"\{")):
        tensorpatch.Publisher(training.path("stream"), **options)
    assert not training.path("stream").exists()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda replica: replica.pull(-1), "version is the number of a version: they start at 1, not -1"),
        (lambda replica: replica.prepare("1"), "version is the number of a version"),
        (lambda replica: replica.pull(timeout="x"), "timeout is a number of seconds, not 'x'"),
        (lambda replica: next(replica.follow(poll=-1)), "poll is a number of seconds, not -1"),
        (lambda replica: next(replica.follow(stop=5)), "stop is a threading.Event, not 5"),
    ],
)
def test_an_argument_of_a_replica_that_is_none_is_named(
    training: Training, publisher: tensorpatch.Publisher, call: Callable[[Any], object], error: str
) -> None:
    publisher.publish(training.state)
    with pytest.raises((TypeError, tensorpatch.UsageError), match=error):
        call(tensorpatch.Replica(training.path("stream"), training.path("replica")))


class Model:
    def state_dict(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Model(), r"a Model is no state, but has one: give its state_dict\(\)"),
        (b"path", "not bytes"),
        ([1, 2], "pairs of a name and a tensor; not int"),
        ({3: numpy.zeros(2)}, "the name of a tensor is a text, not 3"),
        ({"__metadata__": numpy.zeros(2)}, 'no tensor can have the name "__metadata__"'),
    ],
)
def test_what_is_no_state_is_told(
    training: Training, publisher: tensorpatch.Publisher, state: Any, error: str
) -> None:
    for call in (publisher.publish, tensorpatch.digest):
        with pytest.raises((TypeError, tensorpatch.UsageError), match=error):
            call(state)
    assert publisher.publish(training.state).version == 1


def test_other_arguments_of_publishing_that_are_none_are_named(
    training: Training, publisher: tensorpatch.Publisher
) -> None:
    with pytest.raises(TypeError, match="label is a text, not 3"):
        publisher.publish(training.state, label=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"companions\['config.json'\] is bytes or the path of a file, not 3"):
        publisher.publish(training.state, companions={"config.json": 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="changes are triples of a name, indices and values; not dict"):
        publisher.publish_sparse({"w": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rank is a number that is not negative, not '0'"):
        publisher.prepare(training.state, rank="0", world_size=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="receipts is a list of texts"):
        publisher.commit("receipt")
    with pytest.raises(TypeError, match="names is a list of texts, not 'bias'"):
        tensorpatch.patches(training.path("full.tpatch"), names="bias")


def test_a_list_that_can_be_taken_only_once_is_taken_once(training: Training) -> None:
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    patches = tensorpatch.patches(training.path("full.tpatch"), names=(name for name in ["bias"]))
    assert [patch.name for patch in patches] == ["bias"]


def test_sparse_changes_of_an_empty_stream_have_nothing_to_change(publisher: tensorpatch.Publisher) -> None:
    with pytest.raises(tensorpatch.NotFoundError, match="no version yet"):
        publisher.publish_sparse([("w", numpy.array([0]), numpy.array([1.0]))])


def test_errors_say_which_argument_or_method_helps(
    training: Training, publisher: tensorpatch.Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(training.state)
    with pytest.raises(tensorpatch.UsageError, match="partial=True keeps them, removing=True removes them"):
        publisher.publish({"bias": training.state["bias"]})
    with tensorpatch.Publisher(training.path("stream"), baseline=training.path("other")) as other:
        other.publish(training.train())
    with pytest.raises(tensorpatch.NotAtTipError, match=r"call catch_up\(\) and publish again"):
        publisher.publish(training.state)
    foreign = training.path("foreign")
    foreign.mkdir()
    tensorpatch.diff(None, {"w": numpy.zeros(2)}, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), foreign / "model.safetensors")
    with pytest.raises(tensorpatch.UsageError, match="replace=True"):
        tensorpatch.Replica(training.path("stream"), foreign).pull()
    assert tensorpatch.Replica(training.path("stream"), foreign, replace=True).pull().version == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(tensorpatch.StorageError, match="baseline="):
        tensorpatch.Publisher(training.path("third")).publish(training.state)


def test_a_tensor_is_removed_where_that_is_asked_for_or_by_a_checkpoint_that_lacks_it(
    training: Training, publisher: tensorpatch.Publisher
) -> None:
    publisher.publish(training.state)
    bias = training.state.pop("bias")
    with pytest.raises(tensorpatch.UsageError, match="give one of them"):
        publisher.publish(training.state, partial=True, removing=True)
    removed = publisher.publish(training.state, removing=True)
    assert removed.digest == tensorpatch.digest(training.state)
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    assert replica.pull().digest == removed.digest
    publisher.publish({**training.state, "bias": bias})
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), training.path("less.safetensors"))
    assert publisher.publish(training.path("less.safetensors")).digest == tensorpatch.digest(training.state)


def test_a_base_that_is_not_the_newest_version_is_a_wrong_base(
    training: Training, publisher: tensorpatch.Publisher
) -> None:
    paths: list[Path] = []
    for step in range(2):
        tensorpatch.diff(None, training.train(), training.path("full.tpatch"))
        paths.append(training.path(f"step-{step}.safetensors"))
        tensorpatch.apply(None, training.path("full.tpatch"), paths[step])
    publisher.publish(paths[0])
    with pytest.raises(tensorpatch.WrongBaseError):
        publisher.publish(paths[1], base=paths[1])


def test_progress_can_always_be_divided(training: Training) -> None:
    shares: list[float] = []
    state = {"w": training.random.integers(0, 255, 64 << 20, dtype=numpy.uint8)}
    publisher = tensorpatch.Publisher(
        training.path("other"), progress=lambda phase, done, total: shares.append(done / total)
    )
    publisher.publish(state)
    assert shares and all(0 <= share <= 1 for share in shares)


def test_following_waits_for_a_stream_that_is_gone_for_a_while(
    training: Training, publisher: tensorpatch.Publisher
) -> None:
    publisher.publish(training.state)
    versions = tensorpatch.Replica(training.path("stream"), training.path("replica")).follow(poll=0.02)
    assert next(versions).version == 1
    shutil.move(training.path("stream"), training.path("away"))
    other = tensorpatch.Publisher(training.path("away"), baseline=training.path("other"))
    other.publish(training.train())
    threading.Timer(0.2, shutil.move, (training.path("away"), training.path("stream"))).start()
    assert next(versions).version == 2
