"""Uses every part of the package as a typed program does: checked by ``mypy --strict``, never run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy
import numpy.typing

import tensorpatch
from tensorpatch import exceptions

Array = numpy.typing.NDArray[numpy.float32]


def pairs(state: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    yield from state.items()


def files(state: dict[str, Array]) -> int:
    report: tensorpatch.DiffReport = tensorpatch.diff("base", state, Path("out"), profile="direct", threads=2)
    tensorpatch.diff(None, pairs(state), "out", progress=lambda phase, done, total: None)
    tensorpatch.diff(state, {"w": tensorpatch.Raw("BF16", (1,), b"12")}, "out", partial=True)
    applied: tensorpatch.ApplyReport = tensorpatch.apply("base", "out", in_place=True)
    info: tensorpatch.PatchInfo = tensorpatch.inspect("out")
    digest: str = tensorpatch.digest(pairs(state), leaf_hash="blake3")
    converted = tensorpatch.convert("a", "b", to="slime", version="1", encoding="xor")
    print(info.to_dict(), digest, applied.same_files, converted.notes)
    return report.changed_elements


def stream(state: dict[str, Array], indices: numpy.typing.NDArray[numpy.int64]) -> str | None:
    with tensorpatch.Publisher(
        "url", baseline=Path("x"), anchor_every=3, allow_unchanged=True, carry=["a.log"], storage={"attempts": "3"}
    ) as publisher:
        published: tensorpatch.Published = publisher.publish(state, label="1", companions={"a": b""})
        publisher.publish(pairs(state), partial=True)
        future: Future[tensorpatch.Published] = publisher.publish_in_background("path")
        publisher.publish_sparse((name, indices, value) for name, value in state.items())
        receipt: str = publisher.prepare(state, rank=0, world_size=1)
        publisher.commit([receipt])
        publisher.publish("checkpoint", base=Path("before"))
        publisher.settle()
        added: tensorpatch.AnchorAdded = publisher.add_anchor()
        back: tensorpatch.RolledBack = publisher.roll_back()
        left: tuple[tensorpatch.LeftOut, ...] = published.left_out
        print(added.bytes, back.removed, left, published.companions)
        try:
            print(future.result(), published.anchor)
        except exceptions.ConflictError as error:
            print(error.kind, error.retryable, error.offset)
    replica = tensorpatch.Replica(
        "url", "directory", mode="beside", durability="none", inverse=False, verify=True, lease="me"
    )
    faults: tuple[tensorpatch.Fault, ...] = replica.verify().faults
    print([fault.what for fault in faults])
    prepared: tensorpatch.Prepared = replica.prepare(3)
    for patch in tensorpatch.patches(prepared, names=["w"]):
        shape: tuple[int, ...] = patch.shape
        array = numpy.asarray(patch.values)
        print(shape, array, None if patch.indices is None else len(patch.indices))
    for pulled in replica.follow(poll=0.5):
        return pulled.digest
    return replica.digest


async def waits(state: dict[str, Array]) -> None:
    publisher = tensorpatch.Publisher("url")
    print((await publisher.publish_async(state)).version)
    replica = tensorpatch.Replica("url", "directory")
    async for pulled in replica.follow_async():
        print(pulled.edges[0].bytes)
