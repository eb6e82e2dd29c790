"""Starts inference servers on the loopback interface, and stops them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

class Running(NamedTuple):
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]


OFFLINE = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false"}
GPU = torch.cuda.is_available()


@contextmanager
def vllm(
    model: Path, *, log: Path, environment: dict[str, str] | None = None, options: Sequence[str] = ()
) -> Iterator[Running]:
    """A vLLM server with the backend of tensorpatch; yields it as soon as it answers."""
    port = free_port()
    command = [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"),
        *("--port", str(port), "--dtype", "bfloat16", "--logprobs-mode", "processed_logprobs"),
        *("--weight-transfer-config", json.dumps({"backend": "tensorpatch"})),
        *("--worker-extension-cls", "tensorpatch.vllm.worker.Worker"),
        *("--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8"),
        *options,
    ]
    own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if not GPU:
        own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with _server(command, port, log, {**own, **(environment or {})}) as running:
        yield running


@contextmanager
def sglang(model: Path, *, log: Path, dtype: str = "bfloat16") -> Iterator[Running]:
    """An SGLang server; yields it as soon as it answers."""
    port = free_port()
    command = [
        *("-m", "sglang.launch_server", "--model-path", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", dtype, "--disable-cuda-graph", "--skip-server-warmup", "--mem-fraction-static", "0.2"),
        *("--max-total-tokens", "4096"),
    ]
    if not GPU:
        command += ["--device", "cpu", "--attention-backend", "torch_native"]
    with _server(command, port, log, {}) as running:
        yield running


@contextmanager
def _server(command: list[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[Running]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **OFFLINE, **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 600
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start; {log} ends with\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Running(f"http://127.0.0.1:{port}", process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and the processes that it started, which are a group of their own."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return
    # Workers may outlive the process that started them.


def _answers(port: int) -> bool:
    from tensorpatch.http import EngineError, call

    try:
        call(f"http://127.0.0.1:{port}/health", timeout=5)
    except EngineError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
