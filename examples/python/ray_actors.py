"""Publishing from Ray actors that each own a part of a model: needs ray, NumPy and tensorpatch, no GPU.

    python ray_actors.py [--actors N] [--steps N] [--stream URL]

Each actor trains the tensors that it owns and uploads their changes. What it returns is a receipt, a text, so that
nothing of the model passes through the driver. The driver commits the receipts as one version: all of it, or nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray  # noqa: E402

import tensorpatch  # noqa: E402


@ray.remote(num_cpus=1)
class Trainer:
    """A rank: the tensors that it owns, and a publisher with a baseline of its own."""

    def __init__(self, url: str, rank: int, world_size: int, scratch: str) -> None:
        self.rank, self.world_size = rank, world_size
        self.publisher = tensorpatch.Publisher(url, baseline=Path(scratch) / f"rank-{rank}", progress=False)
        self.random = numpy.random.default_rng(rank)
        self.state = {
            f"layers.{layer}.weight": self.random.standard_normal((256, 256)).astype(numpy.float32)
            for layer in range(rank, 4 * world_size, world_size)
        }

    def step(self, attempt: str) -> str:
        """Trains, uploads what changed and returns the receipt."""
        for tensor in self.state.values():
            changed = self.random.choice(tensor.size, tensor.size // 100, replace=False)
            tensor.reshape(-1)[changed] += 1
        return self.publisher.prepare(
            self.state, rank=self.rank, world_size=self.world_size, attempt=attempt
        )

    def commit(self, receipts: list[str], label: str) -> tuple[int, int]:
        """Makes a version of the receipts of all ranks: its number, and its bytes."""
        published = self.publisher.commit(receipts, label=label)
        return published.version, published.bytes

    def tensors(self) -> dict[str, numpy.ndarray]:
        """For the check at the end."""
        return self.state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--stream", help="URL of an empty stream; a temporary directory if not given")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        stream = options.stream or f"{scratch}/stream"
        # The store of objects carries receipts alone.
        ray.init(num_cpus=options.actors, object_store_memory=100 << 20, include_dashboard=False)
        actors = [Trainer.remote(stream, rank, options.actors, scratch) for rank in range(options.actors)]
        for step in range(options.steps):
            receipts = ray.get([actor.step.remote(f"attempt of step {step}") for actor in actors])
            version, size = ray.get(actors[0].commit.remote(receipts, f"step {step}"))
            print(f"step {step}: version {version}, {size:,} bytes, {sum(map(len, receipts)):,} bytes of receipts")

        replica = tensorpatch.Replica(stream, Path(scratch) / "replica", progress=False)
        served = replica.pull().digest
        owned = [pair for actor in actors for pair in ray.get(actor.tensors.remote()).items()]
        same = served == tensorpatch.digest(dict(owned))
        ray.shutdown()
    print("bit for bit what the actors have" if same else "the weights differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
