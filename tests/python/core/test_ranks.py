"""Versions that several processes publish together."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Training

import tensorpatch


class Ranks:
    """Ranks in this process, each with a publisher of its own."""

    def __init__(self, training: Training, count: int = 2) -> None:
        self.training, self.count = training, count
        url = training.path("stream")
        self.publishers = [
            tensorpatch.Publisher(url, baseline=training.path(f"rank{rank}")) for rank in range(count)
        ]
        self.replica_dir = training.path("replica")

    def owned(self, rank: int) -> dict[str, Any]:
        return {name: self.training.state[name] for name in sorted(self.training.state)[rank :: self.count]}

    def prepare(self, **options: Any) -> list[str]:
        return [
            publisher.prepare(self.owned(rank), rank=rank, world_size=self.count, **options)
            for rank, publisher in enumerate(self.publishers)
        ]

    def publish(self, **options: Any) -> tensorpatch.Published:
        published = self.publishers[-1].commit(self.prepare(**options))
        assert published.digest == tensorpatch.digest(self.training.state)
        replica = tensorpatch.Replica(self.training.path("stream"), self.replica_dir)
        assert replica.pull().digest == published.digest
        return published


@pytest.mark.parametrize("count", [1, 2, 3])
def test_versions_of_ranks_are_the_states_of_all(training: Training, count: int) -> None:
    ranks = Ranks(training, count)
    first = ranks.publish()
    assert first.kind == "anchor"
    for _ in range(3):
        training.train()
        published = ranks.publish()
        assert published.kind == "delta" and published.bytes < first.bytes


def test_a_rank_that_lost_its_directory_reads_its_tensors_from_the_stream(training: Training) -> None:
    ranks = Ranks(training)
    ranks.publish()
    training.train()
    ranks.publish()
    shutil.rmtree(training.path("rank1-ranks"))
    training.train()
    assert ranks.publish().kind == "delta"
    # Damage is noticed, too.
    for weights in training.path("rank0-ranks").rglob("*.safetensors"):
        changed = bytearray(weights.read_bytes())
        changed[-1] ^= 1
        weights.write_bytes(changed)
    training.train()
    assert ranks.publish().kind == "delta"


def test_an_attempt_without_a_commit_leaves_nothing(training: Training) -> None:
    ranks = Ranks(training)
    ranks.publish()
    training.train()
    stale = ranks.prepare()
    training.train()
    published = ranks.publish()
    assert published.version == 2
    with pytest.raises(tensorpatch.ConflictError):
        ranks.publishers[0].commit(stale)


def test_all_ranks_must_have_a_receipt_and_only_one(training: Training) -> None:
    ranks = Ranks(training)
    receipts = ranks.prepare()
    for wrong in ([], receipts[:1], [receipts[0], receipts[0]]):
        with pytest.raises(tensorpatch.Error, match="receipt"):
            ranks.publishers[0].commit(wrong)
    with pytest.raises(tensorpatch.UsageError, match=r"receipts\[0\] is no receipt"):
        ranks.publishers[0].commit(["{}"])
    assert ranks.publishers[0].latest() is None
    assert ranks.publishers[0].commit(receipts).version == 1


def test_a_first_version_is_tried_again_under_another_name(training: Training) -> None:
    ranks = Ranks(training)
    ranks.prepare()
    with pytest.raises(tensorpatch.Error, match="already"):
        ranks.prepare()
    ranks.publish(attempt="again")


def test_tensors_with_other_shapes_need_whole_files(training: Training) -> None:
    ranks = Ranks(training)
    ranks.publish()
    training.state["bias"] = numpy.arange(7, dtype=numpy.float32)
    with pytest.raises(tensorpatch.Error, match="others than before"):
        ranks.prepare()
    assert ranks.publish(whole=True).kind == "anchor"
    training.train()
    assert ranks.publish().kind == "delta"


def test_ranks_publish_sparse_changes_and_parts(training: Training) -> None:
    ranks = Ranks(training)
    ranks.publish()
    owner = next(rank for rank in range(2) if "bias" in ranks.owned(rank))
    bias = training.state["bias"]
    bias[[2, 5]] = 9
    indices = numpy.array([2, 5])
    receipts = [
        publisher.prepare_sparse(
            [("bias", indices, bias[indices])] if rank == owner else [], rank=rank, world_size=2
        )
        for rank, publisher in enumerate(ranks.publishers)
    ]
    published = ranks.publishers[0].commit(receipts)
    assert published.changed_elements == 2 and published.digest == tensorpatch.digest(training.state)
    bias[3] = 1
    receipts = [
        publisher.prepare({"bias": bias} if rank == owner else {}, rank=rank, world_size=2, partial=True)
        for rank, publisher in enumerate(ranks.publishers)
    ]
    assert ranks.publishers[0].commit(receipts).digest == tensorpatch.digest(training.state)


def test_a_rank_beyond_the_world_is_refused(training: Training) -> None:
    with pytest.raises(tensorpatch.UsageError, match="world_size"):
        tensorpatch.Publisher(training.path("stream")).prepare(training.state, rank=2, world_size=2)


def child(rank: int, directory: Path, queue: Any, receipts: Any) -> None:
    publisher = tensorpatch.Publisher(directory / "stream", baseline=directory / f"rank{rank}")
    for step in range(3):
        state = {f"w{rank}": numpy.full(1000, rank + step, dtype=numpy.float32)}
        queue.put(publisher.prepare(state, rank=rank, world_size=2))
        if rank == 0:
            publisher.commit([queue.get(timeout=60) for _ in range(2)], label=f"step {step}")
        receipts.wait(60)


def test_ranks_in_processes_of_their_own(training: Training) -> None:
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(2)
    arguments = (training.directory, queue, barrier)
    children = [context.Process(target=child, args=(rank, *arguments)) for rank in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join(120)
        assert process.exitcode == 0
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    expected = {f"w{rank}": numpy.full(1000, rank + 2, dtype=numpy.float32) for rank in range(2)}
    assert replica.pull().digest == tensorpatch.digest(expected)
