"""One download and one apply for all processes of a host."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tensorpatch import LocalStateError, Publisher, digest
from tensorpatch.host import KEPT, Contents, HostReplica, read_changes

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


def start() -> State:
    return {"w": torch.zeros(10, 10).bfloat16(), "n": torch.zeros(4, dtype=torch.int64)}


@pytest.fixture
def publisher(stream: str, tmp_path: Path) -> Publisher:
    publisher = Publisher(stream, baseline=tmp_path / "baseline")
    publisher.publish(start())
    return publisher


def step(publisher: Publisher, state: State, place: int, value: float = 1.0) -> int:
    state["w"].view(-1)[place] = value
    return publisher.publish(state).version


def test_a_fetch_brings_the_checkpoint_and_the_changes(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    state = start()
    first = host.fetch(1, None)
    assert first.changes is None
    assert first.downloaded > 0
    version = step(publisher, state, 42)
    fetched = host.fetch(version, 1)
    assert fetched.contents == Contents(dtypes=("BF16",), elements=1)
    assert fetched.changes is not None
    (change,) = read_changes(fetched.changes, CPU)
    assert (change.name, change.dtype, change.shape) == ("w", torch.bfloat16, (10, 10))
    assert (change.indices.tolist(), change.values.tolist()) == ([42], [1.0])
    assert torch.equal(load_file(fetched.checkpoint / "model.safetensors")["w"], state["w"])
    assert host.digest == digest(fetched.checkpoint)


def test_the_second_process_downloads_nothing_and_finds_the_changes(
    publisher: Publisher, stream: str, tmp_path: Path
) -> None:
    one, two = HostReplica(stream, tmp_path / "host"), HostReplica(stream, tmp_path / "host")
    one.fetch(1, None)
    version = step(publisher, start(), 3)
    fetched = one.fetch(version, 1)
    again = two.fetch(version, 1)
    assert again.downloaded == 0
    assert again.changes == fetched.changes
    assert again.contents == fetched.contents


def test_changes_over_several_versions_are_one(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    state = start()
    for place in (5, 1):
        version = step(publisher, state, place)
    fetched = host.fetch(version, 1)
    assert fetched.changes is not None
    (change,) = read_changes(fetched.changes, CPU)
    assert change.indices.tolist() == [1, 5]


def test_what_cannot_be_scattered_is_told(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    state = start()
    state["n"][1] = 7
    version = step(publisher, state, 0, float("nan"))
    contents = host.fetch(version, 1).contents
    assert contents.nan
    assert contents.dtypes == ("BF16", "I64")
    state["w"] = torch.zeros(5).bfloat16()
    version = publisher.publish(state).version
    assert host.fetch(version, version - 1).contents.whole == ("w",)


def test_a_small_tensor_that_changes_as_a_whole_is_scattered_all_the_same(
    publisher: Publisher, stream: str, tmp_path: Path
) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    state = start()
    state["w"] += 1
    version = publisher.publish(state).version
    fetched = host.fetch(version, 1)
    assert fetched.contents == Contents(dtypes=("BF16",), elements=100)
    assert fetched.changes is not None
    (change,) = read_changes(fetched.changes, CPU)
    assert change.indices.tolist() == list(range(100))


def test_changes_since_another_version_are_not_made_up(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    version = step(publisher, start(), 1)
    host.fetch(version, None)
    newer = step(publisher, start(), 2)
    assert host.fetch(newer, 1).changes is None


def test_old_changes_are_removed(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    state = start()
    for place in range(KEPT + 3):
        version = step(publisher, state, place)
        host.fetch(version, version - 1)
    assert len(list((tmp_path / "host" / "changes").iterdir())) == KEPT


def test_a_checkpoint_that_moved_is_not_read_as_the_version_before(
    publisher: Publisher, stream: str, tmp_path: Path
) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    with host.reading(1) as checkpoint:
        assert checkpoint.is_dir()
    host.fetch(step(publisher, start(), 1), 1)
    with pytest.raises(LocalStateError, match="holds version 2 and not 1"), host.reading(1):
        pass


def test_a_checkpoint_does_not_move_while_it_is_read(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    host = HostReplica(stream, tmp_path / "host")
    host.fetch(1, None)
    version = step(publisher, start(), 1)
    other = HostReplica(stream, tmp_path / "host")
    fetching = threading.Thread(target=other.fetch, args=(version, 1))
    with host.reading(1):
        fetching.start()
        fetching.join(0.5)
        assert fetching.is_alive()
        assert other._replica.version == 1
    fetching.join()
    assert other._replica.version == version


def _fetch(stream: str, directory: Path, version: int, results: multiprocessing.Queue[tuple[int, bool]]) -> None:
    fetched = HostReplica(stream, directory).fetch(version, 1)
    results.put((fetched.downloaded, fetched.changes is not None))


def test_of_many_processes_at_once_one_downloads(publisher: Publisher, stream: str, tmp_path: Path) -> None:
    HostReplica(stream, tmp_path / "host").fetch(1, None)
    version = step(publisher, start(), 1)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_fetch, args=(stream, tmp_path / "host", version, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(downloaded > 0 for downloaded, _ in found) == [False, False, True]
    assert all(has_changes for _, has_changes in found)
