"""What is published in the background is published, whatever becomes of the publisher and of the program."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Training

import tensorpatch

LARGE = 8 << 20
"""Elements of a tensor whose publication takes longer than the lines after it."""


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    program = "import numpy, tensorpatch\n" + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, timeout=120
    )


def labels(training: Training) -> list[str | None]:
    return [version.label for version in tensorpatch.Publisher(training.path("stream"), create=False).versions()]


def random_state(training: Training) -> dict[str, Any]:
    return {"w": training.random.standard_normal(LARGE, dtype=numpy.float32)}


def test_the_interpreter_waits_at_its_end_for_what_is_published_in_the_background(training: Training) -> None:
    ended = run(
        f"""
        publisher = tensorpatch.Publisher("stream", baseline="baseline")
        state = {{"w": numpy.zeros({LARGE}, dtype=numpy.float32)}}
        publisher.publish(state, label="first")
        state["w"][:] = numpy.random.default_rng(7).standard_normal({LARGE})
        publisher.publish_in_background(state, label="last")
        """,
        training.directory,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert labels(training) == ["first", "last"]


def test_what_fails_while_the_interpreter_ends_is_told_on_the_standard_error(training: Training) -> None:
    code = """
        first = tensorpatch.Publisher("stream", baseline="a")
        second = tensorpatch.Publisher("stream", baseline="b")
        first.publish({"w": numpy.zeros(9)})
        def tensors():
            second.publish({"w": numpy.ones(9)})
            yield "w", numpy.full(9, 2.0)
        future = first.publish_in_background(tensors())
        """
    ended = run(code, training.directory)
    assert ended.returncode == 0
    assert ended.stderr.startswith("tensorpatch: a version of stream failed in the background: LostRaceError: ")
    # The program has seen this one.
    training.path("other").mkdir()
    ended = run(code + "print(type(future.exception()).__name__)", training.path("other"))
    assert (ended.stdout, ended.stderr) == ("LostRaceError\n", "")


def publish_and_return(directory: Path) -> None:
    publisher = tensorpatch.Publisher(directory / "stream", baseline=directory / "child")
    publisher.publish_in_background({"w": numpy.ones(LARGE, dtype=numpy.float32)}, label="child")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_waits_at_its_end_too(training: Training, method: str) -> None:
    # The parent has what is inherited by a fork and must not be waited for.
    with tensorpatch.Publisher(training.path("other"), baseline=training.path("parent")) as publisher:
        future = publisher.publish_in_background(random_state(training))
        child = multiprocessing.get_context(method).Process(target=publish_and_return, args=(training.directory,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert future.result(60).version == 1
    assert labels(training) == ["child"]


def test_a_future_keeps_its_publisher_alive(training: Training) -> None:
    publisher = tensorpatch.Publisher(training.path("stream"), baseline=training.path("baseline"))
    future = publisher.publish_in_background(random_state(training))
    del publisher
    assert future.result(60).version == 1


def test_closing_again_after_an_interrupt_waits_for_the_version(training: Training) -> None:
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), training.path("one.safetensors"))
    publisher = tensorpatch.Publisher(training.path("stream"), baseline=training.path("baseline"))
    publisher.publish(training.state)
    # The version cannot be published while somebody else is at work on the baseline.
    lock = os.open(training.path("baseline") / ".tensorpatch/lock", os.O_RDWR)
    publisher.settle()
    fcntl.flock(lock, fcntl.LOCK_EX)
    future = publisher.publish_in_background(training.path("one.safetensors"), label="again")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        publisher.close()
    assert not future.done()
    threading.Timer(0.1, os.close, (lock,)).start()
    publisher.close()
    assert future.result(0).version == 2
    with pytest.raises(tensorpatch.UsageError, match="closed"):
        publisher.latest()
