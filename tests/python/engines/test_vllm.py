"""Real vLLM servers that take versions over from a stream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import servers
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tensorpatch import Publisher
from tensorpatch.http import EngineError, call

pytest.importorskip("vllm", reason="vLLM is not installed")

from tensorpatch.vllm import Server  # noqa: E402

State = dict[str, torch.Tensor]
PROMPT = {"prompt": [1, 5, 9, 33], "max_tokens": 8, "temperature": 0, "return_token_ids": True, "logprobs": 1}


def trained(state: State, seed: int) -> State:
    """The state with a fiftieth of its weights moved, for every tensor."""
    torch.manual_seed(seed)
    new = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in new.values():
        places = torch.randint(tensor.numel(), (tensor.numel() // 50 + 1,))
        tensor.view(-1)[places] += torch.randn(len(places)).to(tensor.dtype) / 2
    return new


def reloaded(server: Server, state: State, directory: Path) -> dict[str, str]:
    """The checksums of the server's parameters after it loads `state` from a file by itself."""
    directory.mkdir(exist_ok=True)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    call(f"{server.url}/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}})
    return server.checksums()


def generated(server: Server, model: Path) -> tuple[list[int], list[float]]:
    """What the server generates, which shows weights that a kernel keeps by itself: tokens, and their logarithms."""
    choice = call(f"{server.url}/v1/completions", {**PROMPT, "model": str(model)})["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def is_paused(server: Server) -> bool:
    return bool(call(f"{server.url}/is_paused")["is_paused"])


def out_of_range(changes: Path) -> None:
    """Makes the last position of the changes one that no tensor has."""
    with safe_open(changes, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(changes)
    tensors[sorted(name for name in tensors if name.endswith(".indices"))[-1]][-1] = 2**31 - 1
    save_file(tensors, changes, metadata=metadata)


class Run:
    """A trainer without training: it publishes states."""

    def __init__(self, stream: str, model: Path, scratch: Path) -> None:
        self.publisher = Publisher(stream, baseline=scratch / "baseline")
        self.publisher.publish(model)
        self.state = load_file(model / "model.safetensors")

    def step(self, seed: int) -> int:
        self.state = trained(self.state, seed)
        return self.publisher.publish(self.state, partial=True).version


@pytest.fixture
def run(stream: str, model: Path, tmp_path: Path) -> Run:
    return Run(stream, model, tmp_path)


def test_changes_are_scattered_and_leave_the_bits_of_a_reload(
    run: Run, model: Path, stream: str, tmp_path: Path, plain_kernels: dict[str, str]
) -> None:
    with servers.vllm(model, log=tmp_path / "vllm.log", environment=plain_kernels) as running:
        server = Server(running.url)
        server.connect(stream, directory=str(tmp_path / "host"))
        assert [worker["served"] for worker in server.status()] == [1]

        for seed in (1, 2):
            version = run.step(seed)
            update = server.update(version)
            assert (update.route, update.reason, update.version) == ("scatter", "", version)
            assert server.weight_version() == str(version)
        # The trainer was two versions ahead.
        run.step(3)
        assert server.update(run.step(4)).route == "scatter"

        # A NaN cannot be scattered. The version is taken over nevertheless.
        run.state["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
        update = server.update(run.publisher.publish(run.state).version)
        assert update.route == "reload"
        assert "NaN" in update.reason
        run.state["model.layers.0.mlp.up_proj.weight"][0, 0] = 1
        assert server.update(run.publisher.publish(run.state).version).route == "scatter"

        # A scatter that fails is followed by a reload in the same pause.
        version = run.step(5)
        server.fetch(version)
        changes = tmp_path / "host" / "changes" / f"{version - 1}-{version}.safetensors"
        out_of_range(changes)
        update = server.update(version)
        assert update.route == "reload"
        assert "the scatter failed" in update.reason

        # Changes that were damaged on the disk are not there.
        version = run.step(6)
        server.fetch(version)
        changes = changes.with_name(f"{version - 1}-{version}.safetensors")
        changes.write_bytes(changes.read_bytes()[:-100])
        update = server.update(version)
        assert update.route == "reload"
        assert "not on this host" in update.reason

        after_updates = server.checksums()
        assert after_updates == reloaded(server, run.state, tmp_path / "final")

        # A version that is not there leaves the server as it is, and it goes on.
        with pytest.raises(EngineError, match="was not fetched"):
            server.update(version + 7)
        assert not is_paused(server)
        assert server.weight_version() == str(version)


def test_weights_that_a_kernel_took_over_are_reloaded(
    run: Run, model: Path, stream: str, tmp_path: Path, kernels_that_take_weights_over: dict[str, str]
) -> None:
    with servers.vllm(model, log=tmp_path / "vllm.log", environment=kernels_that_take_weights_over) as running:
        server = Server(running.url)
        server.connect(stream, directory=str(tmp_path / "host"))
        for seed in (1, 2):
            update = server.update(run.step(seed))
            assert update.route == "reload"
            assert "repacked" in update.reason
        checksums, tokens = server.checksums(), generated(server, model)
        assert checksums == reloaded(server, run.state, tmp_path / "final")
        assert tokens == generated(server, model)

        # What is known not to fit is refused before anything is loaded, and the server goes on.
        bad = {**trained(run.state, 3), "model.layers.0.mlp.up_proj.weight": torch.zeros(3, 3).bfloat16()}
        version = run.publisher.publish(bad).version
        with pytest.raises(EngineError, match=r"up_proj.weight has the shape \[3, 3\].*; the server goes on"):
            server.update(version)
        assert [(worker["served"], worker["sound"]) for worker in server.status()] == [(3, True)]
        assert generated(server, model) == tokens

        # What only loading shows fails half-way, and leaves a mixture. vLLM takes the two of a layer for one weight.
        bad = {**trained(run.state, 4), "model.layers.1.self_attn.qkv_proj.weight": torch.zeros(3, 3).bfloat16()}
        version = run.publisher.publish(bad).version
        for _ in range(2):
            with pytest.raises(EngineError, match=r"while .*qkv_proj.weight was loaded.*; the server is paused"):
                server.update(version)
            assert [(worker["served"], worker["sound"]) for worker in server.status()] == [(None, False)]
            assert is_paused(server)
        version = run.publisher.publish(trained(bad, 5)).version
        with pytest.raises(EngineError, match=f"version {version} was not loaded.*; the server is paused"):
            server.update(version)

        # The next version that can be loaded is, at once and whole; and so are those after it.
        assert server.update(run.publisher.publish(tmp_path / "final").version).route == "reload"
        assert (server.checksums(), generated(server, model)) == (checksums, tokens)
        # A client that is killed in the middle leaves its update open.
        call(f"{server.url}/start_weight_update", {})
        server.update(run.step(6))
        checksums, tokens = server.checksums(), generated(server, model)
        assert checksums == reloaded(server, run.state, tmp_path / "final")
        assert tokens == generated(server, model)


@pytest.mark.skipif(not os.environ.get("TENSORPATCH_TEST_TP"), reason="two ranks are slow to start on two cores")
def test_two_tensor_parallel_ranks_share_one_download(
    run: Run, model: Path, stream: str, tmp_path: Path, plain_kernels: dict[str, str]
) -> None:
    environment = {**plain_kernels, "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    options = ("--tensor-parallel-size", "2")
    with servers.vllm(model, log=tmp_path / "vllm.log", environment=environment, options=options) as running:
        server = Server(running.url)
        server.connect(stream, directory=str(tmp_path / "host"))
        assert [worker["rank"] for worker in server.status()] == [0, 1]
        for seed in (1, 2):
            assert server.update(run.step(seed)).route == "scatter"
            assert sorted(worker["downloaded"] > 0 for worker in server.status()) == [False, True]
        # Both fail, and what either answers then is still its answer to what it is asked.
        bad = {**trained(run.state, 3), "model.layers.1.self_attn.qkv_proj.weight": torch.zeros(3, 3).bfloat16()}
        version = run.publisher.publish(bad).version
        for _ in range(2):
            with pytest.raises(EngineError, match=f"version {version} was not loaded.*; the server is paused"):
                server.update(version)
            assert [(worker["rank"], worker["served"]) for worker in server.status()] == [(0, None), (1, None)]
        save_file(run.state, tmp_path / "again.safetensors", metadata={"format": "pt"})
        assert server.update(run.publisher.publish(tmp_path / "again.safetensors").version).route == "reload"
        assert server.update(run.step(4)).route == "scatter"
        assert server.checksums() == reloaded(server, run.state, tmp_path / "final")


def test_async_grpo_trains_while_the_server_follows(tmp_path: Path, plain_kernels: dict[str, str]) -> None:
    example = Path(servers.__file__).with_name("async_grpo_vllm.py")
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "4"],
        env={**os.environ, **plain_kernels, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bit for bit the trainer's weights" in done.stdout
    taken, told = done.stdout.split("scatter: on average")
    assert taken.count("scatter") == 5
    assert "from pause to resume" in told


class Follower:
    """`python -m tensorpatch.vllm` beside a server."""

    def __init__(self, stream: str, url: str, directory: Path) -> None:
        command = [sys.executable, "-m", "tensorpatch.vllm", stream, "--server", url, "--poll", "0.2"]
        self.process = subprocess.Popen([*command, "--directory", str(directory)])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_of_two_servers_one_is_killed_and_catches_up(
    model: Path, stream: str, run: Run, tmp_path: Path, plain_kernels: dict[str, str]
) -> None:
    stop = threading.Event()

    def publish() -> None:
        seed = 10
        while not stop.wait(0.5):
            run.step(seed)
            seed += 1

    def serve(name: str) -> AbstractContextManager[servers.Running]:
        return servers.vllm(model, log=tmp_path / f"{name}.log", environment=plain_kernels)

    publishing = threading.Thread(target=publish)
    publishing.start()
    followers: list[Follower] = []
    try:
        with serve("one") as one:
            followers.append(Follower(stream, one.url, tmp_path / "host-one"))
            with serve("two") as two:
                follower = Follower(stream, two.url, tmp_path / "host-two")
                wait_until(lambda: Server(two.url).weight_version() != "default")
                # In the middle of what they do: the disk stays as it is.
                os.killpg(two.process.pid, signal.SIGKILL)
                follower.process.kill()
                follower.process.wait()
            with serve("two-again") as two:
                followers.append(Follower(stream, two.url, tmp_path / "host-two"))
                stop.set()
                publishing.join()
                newest = run.publisher.latest().version
                both = Server(one.url), Server(two.url)
                for server in both:
                    wait_until(lambda server=server: server.weight_version() == str(newest))
                checksums = both[0].checksums()
                assert checksums == both[1].checksums()
                assert checksums == reloaded(both[0], run.state, tmp_path / "final")
    finally:
        stop.set()
        publishing.join()
        for follower in followers:
            follower.stop()
