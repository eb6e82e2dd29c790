"""Publishers and replicas."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Training

import tensorpatch


def test_every_form_of_a_state_publishes_the_same_version(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        first = publisher.publish(training.state, label="step 0")
        assert first.kind == "anchor" and first.version == 1 and first.base is None
        second = publisher.publish(iter(training.train().items()), label="step 1")
        assert second.kind == "delta" and second.base == 1 and second.bytes < first.bytes
        assert second.digest == tensorpatch.digest(training.state)

        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        pulled = replica.pull()
        assert pulled.digest == second.digest == replica.digest
        third = publisher.publish(replica.directory)
        assert third.unchanged and third.commit == second.commit
        assert [version.label for version in publisher.versions()] == ["step 0", "step 1"]
        latest = publisher.latest()
        assert latest is not None and latest.commit == third.commit and latest == replica.latest()


def test_a_label_makes_publishing_idempotent(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        once = publisher.publish(training.train(), label="step 1")
        again = publisher.publish(training.state, label="step 1")
        assert again.resumed and again.version == once.version


def test_partial_keeps_the_tensors_that_are_not_given(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        with pytest.raises(tensorpatch.NotFoundError):
            publisher.publish({"bias": training.state["bias"]}, partial=True)
        publisher.publish(training.state)
        kept = training.copy()
        some = {"bias": training.train()["bias"]}
        with pytest.raises(tensorpatch.UsageError, match="embed"):
            publisher.publish(some)
        assert publisher.publish(some, partial=True).digest == tensorpatch.digest({**kept, **some})


def test_sparse_changes_are_the_state_that_they_make(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        embed = training.state["embed"].reshape(-1)
        for kind in (numpy.int64, numpy.int32, numpy.uint32, numpy.uint64):
            indices = numpy.sort(training.random.choice(embed.size, 20, replace=False)).astype(kind)
            embed[indices] += 1
            published = publisher.publish_sparse([("embed", indices, embed[indices])])
            assert published.digest == tensorpatch.digest(training.state)
            assert published.changed_elements == 20


@pytest.mark.parametrize(
    ("indices", "values", "error"),
    [
        ([3, 2], [1.0, 2.0], "out of order"),
        ([2, 2], [1.0, 2.0], "out of order"),
        ([0, 97], [1.0, 2.0], "not below 97"),
        ([0, -1], [1.0, 2.0], "negative"),
        ([0, 1], [1.0], "bytes of values"),
    ],
)
def test_sparse_changes_that_do_not_fit_are_refused(
    training: Training, indices: list[int], values: list[float], error: str
) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        changes = [("bias", numpy.array(indices), numpy.array(values, dtype=numpy.float32))]
        with pytest.raises((tensorpatch.UsageError, ValueError), match=error):
            publisher.publish_sparse(changes)
        # Nothing of it stays, and the publisher goes on.
        assert publisher.publish(training.state).unchanged


def test_sparse_values_of_another_dtype_are_refused(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        one = numpy.array([1])
        with pytest.raises(tensorpatch.UsageError, match="values of I32 for a tensor of F32"):
            publisher.publish_sparse([("bias", one, numpy.array([1], dtype=numpy.int32))])
        with pytest.raises(TypeError, match="indices of F64"):
            publisher.publish_sparse([("bias", numpy.array([1.0]), numpy.array([1], dtype=numpy.float32))])
        with pytest.raises(tensorpatch.UsageError, match="other"):
            publisher.publish_sparse([("other", one, numpy.array([1], dtype=numpy.float32))])


def test_what_is_published_in_the_background_is_the_state_at_the_call(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        futures, expected = [], []
        for _ in range(3):
            futures.append(publisher.publish_in_background(training.train()))
            expected.append(tensorpatch.digest(training.state))
            training.train()
    assert [future.result(0).digest for future in futures] == expected


def test_an_error_in_the_background_is_in_the_future(training: Training) -> None:
    first = tensorpatch.Publisher(training.path("stream"), baseline=training.path("a"))
    second = tensorpatch.Publisher(training.path("stream"), baseline=training.path("b"))
    first.publish(training.state)
    second.publish(training.train())
    with pytest.raises(tensorpatch.NotAtTipError):
        first.publish_in_background(training.train()).result()
    first.catch_up()
    assert first.publish_in_background(training.state).result().version == 3
    first.close()


def test_companions_come_along(training: Training) -> None:
    config = training.path("generation_config.json")
    config.write_text("{}")
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state, companions={"config.json": b"{1}", "tokenizer.json": config})
        publisher.publish(training.train())
        with pytest.raises(tensorpatch.Error):
            publisher.publish(training.state, companions={"../config.json": b""})
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    replica.pull()
    assert (replica.directory / "config.json").read_bytes() == b"{1}"
    assert (replica.directory / "tokenizer.json").read_text() == "{}"


def test_a_replica_goes_ahead_and_back_and_says_what_it_holds(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        publisher.publish(training.train())
    with tensorpatch.Replica(training.path("stream"), training.path("replica"), mode="beside") as replica:
        assert replica.version is None and replica.digest is None
        assert replica.pull().version == 2 and replica.version == 2
        back = replica.pull(1)
        assert (back.previous, back.version) == (2, 1)
        with pytest.raises(tensorpatch.NotFoundError, match="3"):
            replica.pull(3)
        with pytest.raises(tensorpatch.UsageError, match="start at 1"):
            replica.pull(0)
    with pytest.raises(tensorpatch.UsageError, match="closed"):
        replica.pull()


def test_a_prepared_version_is_activated_once_and_keeps_the_directory_until_then(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        replica.pull()
        publisher.publish(training.train())
    prepared = replica.prepare()
    assert prepared.needed and prepared.version == 2 and prepared.base_version == 1
    assert prepared.digest == tensorpatch.digest(training.state)
    with pytest.raises(TimeoutError):
        tensorpatch.Replica(training.path("stream"), training.path("replica")).pull(timeout=0.2)
    assert replica.activate(prepared).version == 2
    with pytest.raises(tensorpatch.UsageError, match="before"):
        replica.activate(prepared)
    with replica.prepare() as nothing:
        assert not nothing.needed
    assert replica.version == 2


def test_following_yields_each_version_until_it_is_stopped(training: Training) -> None:
    stop = threading.Event()
    seen = []
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        for pulled in replica.follow(poll=0.02, stop=stop):
            seen.append(pulled.version)
            if pulled.version == 3:
                stop.set()
            else:
                publisher.publish(training.train())
    assert seen == [1, 2, 3]


def test_the_asynchronous_twins_do_the_same(training: Training) -> None:
    async def run() -> list[int]:
        seen = []
        with tensorpatch.Publisher(training.path("stream")) as publisher:
            await publisher.publish_async(training.state)
            replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
            assert (await replica.pull_async()).version == 1
            await publisher.publish_async(training.train())
            prepared = await replica.prepare_async()
            assert (await replica.activate_async(prepared)).version == 2
            latest = await publisher.latest_async()
            assert latest is not None and latest.version == 2
            async for pulled in replica.follow_async(poll=0.02):
                seen.append(pulled.version)
                if pulled.version == 4:
                    break
                await publisher.publish_async(training.train())
        return seen

    assert asyncio.run(run()) == [2, 3, 4]


def test_versions_are_made_from_checkpoints_of_the_caller_without_a_copy(training: Training) -> None:
    def checkpoint(step: int) -> Path:
        path = training.path(f"step-{step}.safetensors")
        tensorpatch.diff(None, training.train(), training.path("full.tpatch"))
        tensorpatch.apply(None, training.path("full.tpatch"), path)
        return path

    steps = [checkpoint(step) for step in range(4)]
    with tensorpatch.Publisher(training.path("stream"), baseline=training.path("baseline")) as publisher:
        publisher.publish(steps[0])
        publisher.settle()
        kept = sorted(training.path("baseline").glob("*.safetensors"))[0].read_bytes()
        assert publisher.publish(steps[1], base=steps[0]).kind == "delta"
        publisher.publish_in_background(steps[2], base=steps[1]).result()
        assert sorted(training.path("baseline").glob("*.safetensors"))[0].read_bytes() == kept
        with pytest.raises(tensorpatch.Error, match="newest version|state"):
            publisher.publish(steps[3], base=steps[0])
        with pytest.raises(tensorpatch.UsageError, match="baseline"):
            publisher.publish(training.state, base=steps[2])
        assert publisher.publish(steps[3]).digest == tensorpatch.digest(steps[3])
    with tensorpatch.Publisher(training.path("stream"), baseline=training.path("none")) as publisher:
        assert publisher.publish(steps[0], base=steps[3]).version == 5
    assert not list(training.path("none").glob("*.safetensors"))


def test_an_unchanged_state_is_published_where_that_is_asked_for(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream"), allow_unchanged=True) as publisher:
        publisher.publish(training.state)
        again = publisher.publish(training.state)
    assert (again.version, again.kind, again.unchanged) == (2, "empty", False)


def saved(training: Training) -> Path:
    """The state as a checkpoint directory."""
    directory = training.path("checkpoint")
    directory.mkdir()
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), directory / "model.safetensors")
    return directory


def test_what_is_left_out_of_a_checkpoint_is_told_and_taken_along_by_name(training: Training) -> None:
    directory = saved(training)
    (directory / "onnx").mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "onnx/model.onnx").write_bytes(b"1")
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        published = publisher.publish(directory)
    assert published.companions == ("config.json",)
    assert [left.name for left in published.left_out] == ["onnx/model.onnx"]
    with tensorpatch.Publisher(training.path("other"), carry=["onnx/model.onnx"]) as publisher:
        published = publisher.publish(directory)
    assert published.companions == ("config.json", "onnx/model.onnx") and published.left_out == ()


def test_files_that_can_run_code_come_only_if_they_are_asked_for(training: Training) -> None:
    directory = saved(training)
    (directory / "scaler.pkl").write_bytes(b"a pickle")
    with tensorpatch.Publisher(training.path("stream"), carry=["scaler.pkl"]) as publisher:
        publisher.publish(directory)
    with pytest.raises(tensorpatch.UsageError, match="scaler.pkl"):
        tensorpatch.Replica(training.path("stream"), training.path("refused")).pull()
    replica = training.path("allowed")
    tensorpatch.Replica(training.path("stream"), replica, allow_code=True).pull()
    assert (replica / "scaler.pkl").read_bytes() == b"a pickle"


def test_damage_of_a_replica_is_found_and_restored(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    directory = training.path("replica")
    replica = tensorpatch.Replica(training.path("stream"), directory, durability="none", inverse=False)
    assert replica.pull().verified
    assert replica.verify().faults == ()
    weights = next(directory.glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert [fault.path for fault in replica.verify().faults] == [str(directory)]
    assert not replica.pull().verified
    pulled = tensorpatch.Replica(training.path("stream"), directory, verify=True).pull()
    assert pulled.verified and pulled.restored
    assert replica.verify().digest == pulled.digest and replica.verify().faults == ()


def test_an_anchor_is_added_when_it_is_asked_for(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream"), anchors=False) as publisher:
        publisher.publish(training.state)
        publisher.publish(training.train())
        assert publisher.add_anchor().version == 2
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    assert [edge.anchor for edge in replica.pull().edges] == [True]


def test_a_stream_that_is_missing_is_not_found(training: Training) -> None:
    with pytest.raises(tensorpatch.NotFoundError):
        tensorpatch.Replica(training.path("none"), training.path("replica"))
    with pytest.raises(tensorpatch.NotFoundError):
        tensorpatch.Publisher(training.path("none"), create=False)
    assert not training.path("none").exists()


def test_options_that_are_none_are_told(training: Training) -> None:
    url = training.path("stream")
    with pytest.raises(tensorpatch.UsageError, match="setting"):
        tensorpatch.Publisher(url, storage={"parallel_cats": "3"})
    with pytest.raises(tensorpatch.UsageError, match="ed25519"):
        tensorpatch.Publisher(url, trust=["key"])
    with pytest.raises(tensorpatch.UsageError, match="profile"):
        tensorpatch.Publisher(url, profile="small")  # type: ignore[arg-type]


def test_only_what_is_signed_by_a_trusted_key_is_pulled(training: Training) -> None:
    def keygen(name: str) -> str:
        command = [sys.executable, "-m", "tensorpatch", "--json", "keygen", str(training.path(name))]
        made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return str(made["public_key"])

    own, other = keygen("trainer.key"), keygen("other.key")
    stream, replica = training.path("stream"), training.path("replica")
    with tensorpatch.Publisher(stream, sign_key=training.path("trainer.key")) as publisher:
        publisher.publish(training.state)
    with pytest.raises(tensorpatch.UntrustedError):
        tensorpatch.Replica(stream, replica, trust=[other])
    assert tensorpatch.Replica(stream, replica, trust=[other, own]).pull().version == 1

    # Somebody publishes with another key, and the owner of the first takes that back.
    signing: dict[str, Any] = {"sign_key": training.path("other.key"), "trust": [own]}
    with tensorpatch.Publisher(stream, baseline=training.path("other"), **signing) as publisher:
        publisher.publish(training.train())
    with tensorpatch.Publisher(stream, sign_key=training.path("trainer.key")) as publisher:
        rolled_back = publisher.roll_back()
        assert (rolled_back.tip, rolled_back.removed) == (1, (2,))
        assert publisher.publish(training.train()).version == 2
    assert tensorpatch.Replica(stream, replica, trust=[own]).pull().version == 2


def test_a_stream_is_refused_that_is_another_or_older_than_it_must_be(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        id = publisher.stream
    replica = training.path("replica")
    opened = tensorpatch.Replica(training.path("stream"), replica, stream=id, expect_tip=1)
    assert opened.pull().stream == id
    with pytest.raises(tensorpatch.ConflictError):
        tensorpatch.Replica(training.path("stream"), replica, stream="0" * 32)
    with pytest.raises(tensorpatch.ConflictError):
        tensorpatch.Replica(training.path("stream"), replica, expect_tip=2).pull()


def in_child(publisher: tensorpatch.Publisher, queue: multiprocessing.Queue[str]) -> None:
    try:
        publisher.latest()
        queue.put("no error")
    except tensorpatch.UsageError as error:
        queue.put(str(error))


def test_a_publisher_of_before_a_fork_says_so_instead_of_waiting_for_ever(training: Training) -> None:
    publisher = tensorpatch.Publisher(training.path("stream"))
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=in_child, args=(publisher, queue))
    child.start()
    assert "before a fork" in queue.get(timeout=30)
    child.join()


def test_a_forked_process_does_not_keep_the_locks_of_its_parent(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica, other = (tensorpatch.Replica(training.path("stream"), training.path("replica")) for _ in range(2))
    with replica.prepare() as prepared:
        end, start = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(start)
            os.read(end, 1)
            os._exit(0)
        os.close(end)
        with pytest.raises(TimeoutError):
            other.pull(timeout=0.1)
        assert replica.activate(prepared).version == 1
    try:
        assert other.pull(timeout=30).version == 1
    finally:
        os.close(start)
        os.waitpid(child, 0)


def test_exceptions_travel_between_processes() -> None:
    error = tensorpatch.NotAtTipError("what", "not_at_tip", None, 7)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and (str(copy), copy.kind, copy.offset) == ("what", "not_at_tip", 7)
