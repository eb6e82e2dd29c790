"""Publishing beside a training run: what is published, and what happens when that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tensorpatch import Publisher, Replica, StorageError
from tensorpatch.torch.changes import bits
from tensorpatch.training import StatePublisher, companions_of, publish_base

State = dict[str, torch.Tensor]


def start() -> State:
    return {"a": torch.arange(64).bfloat16(), "b": torch.zeros(3, 5)}


def later(state: State, step: int) -> State:
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["a"][step] = 100 + step
    changed["b"][step % 3, 2] = step
    return changed


def pulled(stream: str, directory: Path, version: int | None = None) -> State:
    Replica(stream, directory).pull(version)
    return {k: v for path in directory.glob("*.safetensors") for k, v in load_file(path).items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


class Unreliable:
    """A publisher whose next calls fail."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.failures = 0
        self.sparse = 0

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("the store does not answer")

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        self._fail()
        return self._publisher.publish(*args, **kwargs)

    def publish_sparse(self, *args: Any, **kwargs: Any) -> Any:
        self._fail()
        self.sparse += 1
        return self._publisher.publish_sparse(*args, **kwargs)

    def catch_up(self) -> Any:
        return self._publisher.catch_up()

    def close(self) -> None:
        self._publisher.close()


@pytest.fixture
def publisher(stream: str, tmp_path: Path) -> Unreliable:
    inner = Publisher(stream, baseline=tmp_path / "baseline")
    inner.publish(start(), label="base")
    return Unreliable(inner)


def test_each_state_becomes_a_version_and_after_the_first_only_changes_are_handed_over(
    publisher: Unreliable, stream: str, tmp_path: Path
) -> None:
    states = StatePublisher(publisher)
    state = start()
    for step in range(1, 4):
        state = later(state, step)
        states.publish(state.items(), label=f"step {step}")
        states.wait()
        assert same(pulled(stream, tmp_path / "replica"), state)
    states.close()
    assert publisher.sparse == 2
    assert [step.changed for step in states.steps] == [0, 2, 2]


def test_tensors_that_are_not_walked_stay(publisher: Unreliable, stream: str, tmp_path: Path) -> None:
    states = StatePublisher(publisher)
    state = later(start(), 1)
    states.publish([("a", state["a"])], label="step 1")
    states.close()
    assert same(pulled(stream, tmp_path / "replica"), {"a": state["a"], "b": start()["b"]})


def test_what_a_failed_publish_had_comes_with_the_next(publisher: Unreliable, stream: str, tmp_path: Path) -> None:
    states = StatePublisher(publisher)
    one, two, three = (later(start(), step) for step in (1, 2, 3))
    states.publish(one.items(), label="step 1")
    states.wait()
    publisher.failures = 1
    states.publish(two.items(), label="step 2")
    states.wait()
    assert "does not answer" in str(states.error)
    states.publish(three.items(), label="step 3")
    states.close()
    assert states.error is None
    assert same(pulled(stream, tmp_path / "replica"), three)


def test_a_version_that_was_committed_unnoticed_is_built_on(
    publisher: Unreliable, stream: str, tmp_path: Path
) -> None:
    states = StatePublisher(publisher)
    states.publish(later(start(), 1).items(), label="step 1")
    states.wait()
    with Publisher(stream, baseline=tmp_path / "other") as other:
        other.publish(later(start(), 9))
    two, three = later(start(), 2), later(start(), 3)
    states.publish(two.items(), label="step 2")
    states.wait()
    assert states.error is not None
    states.publish(three.items(), label="step 3")
    states.close()
    assert same(pulled(stream, tmp_path / "replica"), three)


def test_the_last_state_is_published_again_at_the_end(publisher: Unreliable, stream: str, tmp_path: Path) -> None:
    states = StatePublisher(publisher)
    state = later(start(), 1)
    publisher.failures = 1
    states.publish(state.items(), label="step 1")
    states.close()
    assert same(pulled(stream, tmp_path / "replica"), state)


def test_the_end_raises_if_the_last_state_cannot_be_published(publisher: Unreliable) -> None:
    states = StatePublisher(publisher)
    publisher.failures = 2
    states.publish(later(start(), 1).items(), label="step 1")
    with pytest.raises(StorageError, match="does not answer"):
        states.close()


def test_a_walk_goes_to_its_end_when_something_fails(publisher: Unreliable, stream: str, tmp_path: Path) -> None:
    def fails(named: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in named:
            if name == "a":
                raise RuntimeError("out of memory")
            yield name, tensor

    walked = []

    def walk() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in later(start(), 1).items():
            walked.append(name)
            yield name, tensor

    states = StatePublisher(publisher, names=fails)
    states.publish(walk(), label="step 1")
    states.wait()
    assert walked == ["a", "b"]
    # The snapshot has tensors of two steps now: that must not become a version.
    with pytest.raises(RuntimeError, match="out of memory"):
        states.close()
    assert same(pulled(stream, tmp_path / "replica"), start())


def test_a_state_may_change_as_soon_as_publish_returns(stream: str, tmp_path: Path) -> None:
    inner = Publisher(stream, baseline=tmp_path / "baseline")
    inner.publish(start(), label="base")
    go = threading.Event()

    class Slow(Unreliable):
        def _fail(self) -> None:
            go.wait(30)

    states = StatePublisher(Slow(inner))
    state = later(start(), 1)
    expected = {name: tensor.clone() for name, tensor in state.items()}
    states.publish(state.items(), label="step 1")
    for tensor in state.values():
        tensor.fill_(7)
    go.set()
    states.close()
    assert same(pulled(stream, tmp_path / "replica"), expected)


def test_what_follows_a_version_may_fail_without_an_end_to_the_training(publisher: Unreliable) -> None:
    def after(_: Any) -> None:
        raise RuntimeError("no server")

    states = StatePublisher(publisher, after=after)
    states.publish(later(start(), 1).items(), label="step 1")
    states.close()
    assert states.error is None


def test_the_base_is_cast_once_with_the_files_beside_it(stream: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    full = {"w": torch.randn(100), "count": torch.arange(3)}
    save_file(full, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    (base / "notes.pdf").write_text("not for engines")
    assert list(companions_of(base)) == ["config.json"]
    with Publisher(stream, baseline=tmp_path / "baseline") as publisher:
        _, dtypes = publish_base(publisher, base, torch.bfloat16)
    assert dtypes == {"w": torch.bfloat16, "count": torch.int64}
    replica = tmp_path / "replica"
    assert same(pulled(stream, replica), {"w": full["w"].bfloat16(), "count": full["count"]})
    assert (replica / "config.json").read_text() == "{}"
    assert not (replica / "notes.pdf").exists()
