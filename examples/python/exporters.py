"""Publishing from trainers that keep a model in pieces on many processes: Megatron and DeepSpeed ZeRO-3.

    python exporters.py pipeline | replicated | zero3

Each of them has an exporter of its own that gives whole tensors under the names of the checkpoint file, and each gives
them to other processes. This runs the three flows on a CPU with gloo, with stand-ins for the exporters, which the
comments name. What is published, by whom, and in one commit, is the same with the real ones.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import servers
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

import tensorpatch
from tensorpatch.torch import doubled, owners
from tensorpatch.training import publish_base
from tensorpatch.training_ranks import RankPublisher

State = dict[str, torch.Tensor]
STEPS = 3


def trained(base: Path, step: int) -> State:
    """What all processes together have after a step; each uses a part of it."""
    torch.manual_seed(step)
    state = load_file(base / "model.safetensors")
    for tensor in state.values():
        tensor += (torch.rand(tensor.shape) < 0.01) * step / 8
    return state


def pipeline(rank: int, base: Path, url: str, baseline: Path) -> None:
    """Two pipeline stages of two tensor-parallel ranks each: the first rank of a stage has its whole tensors.

    So do the exporters of slime and miles over Megatron. The other ranks only help to gather, and do not publish.
    """
    publishing = [0, 2]
    group = dist.new_group(publishing, backend="gloo")
    if rank not in publishing:
        return

    def export(step: int) -> State:
        stage = rank // 2
        state = trained(base, step)
        last = max(name for name in state if ".layers." in name).split(".")[2]

        def in_last_stage(name: str) -> bool:
            return f".layers.{last}." in name or ".layers." not in name

        mine = {name: tensor for name, tensor in state.items() if in_last_stage(name) == bool(stage)}
        # An embedding that is tied to the output lies on the first stage and on the last.
        return {**mine, "model.embed_tokens.weight": state["model.embed_tokens.weight"]}

    states = RankPublisher(url, {"baseline": baseline}, group)
    states.first(lambda publisher: publish_base(publisher, base, None))
    elsewhere = doubled(export(0), group)
    for step in range(1, STEPS + 1):
        mine = ((name, tensor) for name, tensor in export(step).items() if name not in elsewhere)
        states.publish(mine, label=f"step {step}")
    states.close()


def replicated(rank: int, base: Path, url: str, baseline: Path) -> None:
    """Every rank gets every tensor: `AutoBridge.export_hf_weights(model, cpu=True)` of Megatron Bridge."""
    world = dist.get_world_size()

    def export(step: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield from trained(base, step).items()

    states = RankPublisher(url, {"baseline": baseline})
    states.first(lambda publisher: publish_base(publisher, base, None))
    for step in range(1, STEPS + 1):
        # The exporter's order is the same on every rank and in every step, and so is the owner of a tensor.
        states.publish((pair for place, pair in enumerate(export(step)) if place % world == rank), label=f"step {step}")
    states.close()


def zero3(rank: int, base: Path, url: str, baseline: Path) -> None:
    """Each parameter is spread over all ranks: `deepspeed.zero.GatheredParameters([p])` makes it whole for a while."""
    world = dist.get_world_size()

    @contextmanager
    def gathered(parameter: torch.Tensor) -> Iterator[torch.Tensor]:
        parts = [torch.empty_like(part) for part in parameter.reshape(-1).tensor_split(world)]
        dist.all_gather(parts, parameter.reshape(-1).tensor_split(world)[rank].contiguous())
        yield torch.cat(parts).view(parameter.shape)

    states = RankPublisher(url, {"baseline": baseline})
    states.first(lambda publisher: publish_base(publisher, base, None))
    for step in range(1, STEPS + 1):
        parameters = trained(base, step)
        owner = owners(parameters.items(), world)

        def mine(parameters: State = parameters, owner: dict[str, int] = owner) -> Iterator[tuple[str, torch.Tensor]]:
            for name, parameter in parameters.items():
                with gathered(parameter) as tensor:  # by all ranks, in the same order
                    if owner[name] == rank:
                        yield name, tensor

        states.publish(mine(), label=f"step {step}")
    states.close()


FLOWS = {"pipeline": (pipeline, 4), "replicated": (replicated, 2), "zero3": (zero3, 2)}


def process(rank: int, flow: str, port: int, base: Path, url: str, scratch: Path) -> None:
    work, world = FLOWS[flow]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    work(rank, base, url, scratch / "baseline")
    dist.barrier()
    dist.destroy_process_group()


def main(flow: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        base, url = tiny.save(scratch / "base"), str(scratch / "stream")
        mp.spawn(process, (flow, servers.free_port(), base, url, scratch), FLOWS[flow][1])
        pulled = tensorpatch.Replica(url, scratch / "replica").pull()
        served, expected = load_file(scratch / "replica" / "model.safetensors"), trained(base, STEPS)
        same = served.keys() == expected.keys() and all(torch.equal(served[n], expected[n]) for n in served)
        print(f"{flow}: version {pulled.version}, {'bit for bit' if same else 'NOT'} what the ranks have")
        return 0 if same and pulled.version == STEPS + 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
