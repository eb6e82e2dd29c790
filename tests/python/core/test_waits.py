"""Every wait can be interrupted, timed out and cancelled; progress is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Training

import tensorpatch


def interrupted(code: str, directory: Path) -> str:
    """What a program prints that is interrupted once it says that it is ready."""
    program = textwrap.dedent(code)
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line == "ready\n", line + child.stdout.read()
        child.send_signal(signal.SIGINT)
        return child.communicate(timeout=60)[0]
    finally:
        child.kill()


HELD = """
    import threading, tensorpatch
    replica = tensorpatch.Replica("stream", "replica")
    held = tensorpatch.Replica("stream", "replica").prepare()
    threading.Timer(0.3, lambda: print("ready", flush=True)).start()
    try:
        {wait}
    except KeyboardInterrupt:
        print("interrupted")
    held.close()
    print(replica.pull().version)
"""


@pytest.mark.parametrize(
    "wait", ["replica.pull()", "replica.prepare()", "replica.version", "next(replica.follow())"]
)
def test_an_interrupt_ends_a_wait_and_leaves_the_replica_usable(training: Training, wait: str) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    assert interrupted(HELD.format(wait=wait), training.directory) == "interrupted\n1\n"


def test_an_interrupt_ends_following_and_publishing(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    follows = """
        import tensorpatch
        try:
            for pulled in tensorpatch.Replica("stream", "replica").follow():
                print("ready", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupted(follows, training.directory) == "interrupted\n"
    publishes = """
        import numpy, tensorpatch
        publisher = tensorpatch.Publisher("stream")
        before = publisher.latest().version
        def tensors():
            print("ready", flush=True)
            for number in range(10**9):
                yield f"w{number}", numpy.zeros(1000)
        try:
            publisher.publish(tensors())
        except KeyboardInterrupt:
            print("interrupted")
        print(publisher.latest().version == before)
    """
    assert interrupted(publishes, training.directory) == "interrupted\nTrue\n"


def test_an_interrupt_ends_a_patch_that_is_being_made(training: Training) -> None:
    code = """
        import threading, tensorpatch
        told = []
        def progress(phase, done, total):
            if not told:
                print("ready", flush=True)
            told.append(phase)
        try:
            while True:
                tensorpatch.diff("old.safetensors", "new.safetensors", "out.tpatch", progress=progress, threads=1)
                if not told:
                    told.append(print("ready", flush=True))
        except KeyboardInterrupt:
            print("interrupted")
    """
    for name in ("old", "new"):
        state = {"w": training.random.integers(0, 255, 32 << 20, dtype=numpy.uint8)}
        tensorpatch.diff(None, state, training.path("full.tpatch"))
        tensorpatch.apply(None, training.path("full.tpatch"), training.path(f"{name}.safetensors"))
    assert interrupted(code, training.directory) == "interrupted\n"


def test_a_timeout_ends_a_pull(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica, other = (tensorpatch.Replica(training.path("stream"), training.path("replica")) for _ in range(2))
    with other.prepare(), pytest.raises(TimeoutError, match="stopped"):
        replica.pull(timeout=0.1)
    assert replica.pull(timeout=60).version == 1


@pytest.mark.parametrize("patient", [False, True])
def test_closing_a_replica_ends_what_follows_it_in_another_thread(training: Training, patient: bool) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    pulled = threading.Event()

    def follow() -> None:
        for _ in replica.follow(stop=threading.Event() if patient else None):
            pulled.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert pulled.wait(60)
    replica.close()
    thread.join(60)
    assert not thread.is_alive()


def test_closing_a_replica_ends_what_follows_it_in_another_task(training: Training) -> None:
    async def run() -> list[int]:
        with tensorpatch.Publisher(training.path("stream")) as publisher:
            publisher.publish(training.state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        pulled = asyncio.Event()

        async def follow() -> list[int]:
            versions = []
            async for version in replica.follow_async():
                versions.append(version.version)
                pulled.set()
            return versions

        task = asyncio.create_task(follow())
        await pulled.wait()
        await asyncio.sleep(0.05)
        replica.close()
        return await asyncio.wait_for(task, 60)

    assert asyncio.run(run()) == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda replica: replica.pull(),
        lambda replica: replica.pull(timeout=60),
        lambda replica: replica.prepare().close(),
        lambda replica: replica.verify(),
        lambda replica: replica.version,
        lambda replica: next(replica.follow()),
    ],
)
def test_a_thread_that_holds_the_directory_does_not_wait_for_itself(training: Training, call: Any) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    replica.pull()
    with replica.prepare() as prepared:
        with pytest.raises(tensorpatch.UsageError, match=r"Prepared\(version=1\)"):
            call(replica)
        # Another thread waits for its turn.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(call, replica)
            assert not concurrent.futures.wait([waiting], 0.05).done
            replica.activate(prepared)
            waiting.result(60)
    call(replica)


def test_closing_a_replica_lets_go_of_what_it_has_prepared(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica, other = (tensorpatch.Replica(training.path("stream"), training.path("replica")) for _ in range(2))
    prepared = replica.prepare()
    replica.close()
    assert other.pull(timeout=60).version == 1
    with pytest.raises(tensorpatch.UsageError, match="closed before"):
        other.activate(prepared)


def test_a_task_that_is_cancelled_ends_its_wait(training: Training) -> None:
    async def run() -> int:
        with tensorpatch.Publisher(training.path("stream")) as publisher:
            publisher.publish(training.state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        prepared = await replica.prepare_async()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(replica.pull_async(), 0.1)
        prepared.close()
        return (await replica.pull_async()).version

    assert asyncio.run(run()) == 1


def test_a_future_that_is_cancelled_ends_its_work_and_the_publisher_goes_on(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        future = publisher.publish_in_background(training.train())
        if future.cancel():
            publisher.catch_up()
        published = publisher.publish(training.state)
        assert published.digest == tensorpatch.digest(training.state)


def test_progress_is_told_to_the_thread_that_waits_and_its_errors_end_the_work(training: Training) -> None:
    told: list[tuple[str, int, int]] = []
    threads = set()

    def progress(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))
        threads.add(threading.get_ident())
        assert 0 <= done <= total

    # Enough for several looks of the thread that waits, of which there is one each 50 ms.
    state = {"w": training.random.integers(0, 255, 320 << 20, dtype=numpy.uint8)}
    tensorpatch.diff(None, state, training.path("full.tpatch"))
    tensorpatch.apply(
        None, training.path("full.tpatch"), training.path("out.safetensors"), threads=1, progress=progress
    )
    tensorpatch.diff(
        None, training.path("out.safetensors"), training.path("2.tpatch"), threads=1, progress=progress
    )
    assert {phase for phase, _, _ in told} <= {"apply", "encode"} and told
    assert threads == {threading.get_ident()}

    class Stop(Exception):
        pass

    def stop(phase: str, done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        tensorpatch.diff(
            None, training.path("out.safetensors"), training.path("3.tpatch"), threads=1, progress=stop
        )
    assert not training.path("3.tpatch").exists()


def test_other_threads_run_while_a_tensor_is_compared(training: Training) -> None:
    ran = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            ran.append(None)
            time.sleep(0)

    state = {"w": training.random.integers(0, 255, 64 << 20, dtype=numpy.uint8)}
    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    # This thread lets go of the interpreter only where a call does so, and the other one after each step.
    sys.setswitchinterval(1000)
    try:
        thread.start()
        before = len(ran)
        tensorpatch.digest(state, threads=1)
        after = len(ran)
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert after > before


def test_tensors_that_publish_themselves_are_refused_instead_of_waited_for(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)

        def tensors() -> Iterator[tuple[str, Any]]:
            publisher.publish({"bias": training.state["bias"]}, partial=True)
            yield from training.state.items()

        with pytest.raises(tensorpatch.UsageError, match="may not call the publisher"):
            publisher.publish(tensors())
        assert publisher.publish(training.train()).version == 2
