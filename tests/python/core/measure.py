"""Measures what publishing a state of torch tensors takes, beside the command line on the same bytes.

    python measure.py [--mib 1024] [--tensor-mib 64] [--rounds 3]

It prints, for each round, the anonymous memory that `Publisher.publish` allocates, and its time and that of
`tensorpatch publish` for the same version from a file. Use a release wheel: a debug wheel tells nothing about times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20


def anonymous() -> int:
    """The bytes of anonymous memory that this process has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no RssAnon")


def growth(work: Callable[[], Any]) -> int:
    """By how many bytes anonymous memory grows, at most, while `work` runs, looked at every 2 ms."""
    before, peak, ended = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        ended.set()
        watching.join()
    return peak


def random_state(mib: int, tensor_mib: int) -> dict[str, Any]:
    """Tensors of `tensor_mib` in bf16, `mib` in all."""
    import torch

    torch.manual_seed(1)
    rows = tensor_mib * MIB // 2 // 1024
    count = range(mib // tensor_mib)
    return {f"layers.{number}.weight": (torch.randn(rows, 1024) / 50).bfloat16() for number in count}


def train(state: dict[str, Any]) -> None:
    """Changes one element in a hundred, in place."""
    import torch

    for tensor in state.values():
        flat = tensor.view(torch.int16).view(-1)
        flat[torch.randint(flat.numel(), (flat.numel() // 100,))] += 1


def rounds(mib: int, tensor_mib: int, count: int) -> Iterator[tuple[int, float, float]]:
    """For each version: bytes allocated, seconds of the package, seconds of the command."""
    import tensorpatch

    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        state = random_state(mib, tensor_mib)
        checkpoint, full = scratch / "model.safetensors", scratch / "full.tpatch"

        def command() -> float:
            checkpoint.unlink(missing_ok=True)
            tensorpatch.diff(None, state, full, progress=False)
            tensorpatch.apply(None, full, checkpoint, progress=False)
            run = [sys.executable, "-m", "tensorpatch", "--json", "publish", str(checkpoint)]
            run += ["--to", str(scratch / "by-command"), "--baseline", str(scratch / "b")]
            done = subprocess.run(run, check=True, capture_output=True)
            return float(json.loads(done.stdout)["seconds"])

        with tensorpatch.Publisher(scratch / "by-package", baseline=scratch / "a", progress=False) as publisher:
            publisher.publish(state)
            command()
            for _ in range(count):
                train(state)
                publisher.settle()
                begun = time.perf_counter()
                grown = growth(lambda: publisher.publish(state))
                seconds = time.perf_counter() - begun
                publisher.settle()
                yield grown, seconds, command()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="the size of the state")
    parser.add_argument("--tensor-mib", type=int, default=64, help="the size of each of its tensors")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.mib} MiB in tensors of {options.tensor_mib} MiB")
    for grown, package, command in rounds(options.mib, options.tensor_mib, options.rounds):
        ratio = f"{package / command:.2f} of the command's {command:.3f} s"
        print(f"allocated {grown / MIB:6.1f} MiB, {package:.3f} s, {ratio}")


if __name__ == "__main__":
    main()
