"""FSDP2 and `DTensor`: processes that publish what they own, in one commit. They talk over gloo, on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import AutoModelForCausalLM

from tensorpatch import Replica, StorageError
from tensorpatch.torch import gather_to, owners, rank_state, state_of
from tensorpatch.torch.changes import bits
from tensorpatch.training import publish_base
from tensorpatch.training_ranks import RankPublisher


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    mp.spawn(_process, (count, servers.free_port(), work, arguments), count)


def _process(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=count)
    try:
        work(rank, count, *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _gather(rank: int, count: int) -> None:
    mesh = init_device_mesh("cpu", (count,))
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int16, torch.float32):
        for shape, dimension in (((7, 3), 0), ((1, 5), 0), ((4,), 0), ((6, 8), 1)):
            expected = torch.arange(torch.Size(shape).numel()).view(shape).to(torch.float32).to(dtype)
            try:
                sharded = distribute_tensor(expected, mesh, [Shard(dimension)])
            except (RuntimeError, NotImplementedError):
                continue  # gloo does not spread this dtype out; FSDP shards it without a collective
            gathered = gather_to(sharded, 1)
            assert (gathered is None) == (rank != 1)
            if gathered is not None:
                assert torch.equal(bits(gathered), bits(expected)), (dtype, shape)
    plain = gather_to(torch.ones(2), 0)
    assert (plain is None) == (rank != 0)


def test_a_sharded_tensor_is_gathered_on_its_owner_alone() -> None:
    in_processes(2, _gather)


def test_owners_are_balanced_by_bytes_and_depend_on_nothing_else() -> None:
    named = [(f"w{n}", torch.empty(size, 10)) for n, size in enumerate((50, 10, 20, 20))]
    assert owners(named, 2) == owners(reversed(named), 2) == {"w0": 0, "w2": 1, "w3": 1, "w1": 1}


def _train(rank: int, count: int, base: Path, stream: str, scratch: Path) -> None:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    mesh = init_device_mesh("cpu", (count,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    states = RankPublisher(stream, {"baseline": scratch / "baseline"})
    dtypes = states.first(lambda publisher: publish_base(publisher, base, None))[1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(500, (2, 16))
    for step in range(1, 4):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 2 and rank == 1:
            # One process cannot upload: nobody commits, and the next version has it all.
            prepare, states._publisher = states._publisher, _Broken()
        states.publish(rank_state(model, dtype=dtypes), label=f"step {step}")
        taken = states.wait()
        assert taken is not None
        assert (taken.error is not None) == (step == 2), taken
        if step == 2 and rank == 1:
            states._publisher = prepare
    states.close()
    final = {name: tensor.clone() for name, tensor in state_of(model, dtype=dtypes)}
    if rank == 0:
        torch.save(final, scratch / "final.pt")


class _Broken:
    def prepare_sparse(self, *args: Any, **kwargs: Any) -> str:
        raise StorageError("the store does not answer")


def test_fsdp2_ranks_publish_one_version_together_or_none(model: Path, stream: str, tmp_path: Path) -> None:
    in_processes(2, _train, model, stream, tmp_path)
    pulled = Replica(stream, tmp_path / "replica").pull()
    assert pulled.version == 3
    served = load_file(tmp_path / "replica" / "model.safetensors")
    final = torch.load(tmp_path / "final.pt")
    assert served.keys() == final.keys()
    for name, tensor in final.items():
        assert torch.equal(bits(served[name]), bits(tensor)), name


def _walk_fails(rank: int, count: int, base: Path, stream: str, scratch: Path) -> None:
    states = RankPublisher(stream, {"baseline": scratch / "baseline"})
    states.first(lambda publisher: publish_base(publisher, base, None))
    state = load_file(base / "model.safetensors")

    def walk() -> Iterator[tuple[str, torch.Tensor]]:
        for place, (name, tensor) in enumerate(state.items()):
            if place == 5 and rank == 1:
                raise RuntimeError("out of memory")
            if place % count == rank:
                yield name, tensor + 1

    states.publish(walk(), label="step 1")
    with pytest.raises(Exception, match="out of memory" if rank == 1 else r"ranks \[1\] could not"):
        states.close()


def test_a_walk_that_fails_on_one_rank_ends_on_all_without_a_version(
    model: Path, stream: str, tmp_path: Path
) -> None:
    in_processes(2, _walk_fails, model, stream, tmp_path)
    assert Replica(stream, tmp_path / "replica").pull().version == 1


def _cannot_open(rank: int, count: int, stream: str) -> None:
    with pytest.raises(Exception, match="."):
        RankPublisher(stream, {"sign_key": "/does/not/exist"})


def test_a_stream_that_rank_0_cannot_open_is_an_error_on_every_rank(stream: str) -> None:
    in_processes(2, _cannot_open, stream)


@pytest.mark.parametrize("flow", ["pipeline", "replicated", "zero3"])
def test_exporters_of_other_trainers_publish_from_their_ranks(flow: str) -> None:
    example = Path(servers.__file__).with_name("exporters.py")
    command = [sys.executable, str(example), flow]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "version 4, bit for bit" in done.stdout
