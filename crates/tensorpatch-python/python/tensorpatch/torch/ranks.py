"""Models that are sharded over processes (FSDP2, `DTensor`): each process publishes the tensors that it owns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from .names import Dtypes, Names, named_tensors, plain_name, whole


def owners(named: Iterable[tuple[str, torch.Tensor]], world_size: int) -> dict[str, int]:
    """The rank that publishes each tensor: the largest first, each to the rank with the fewest bytes so far.

    It depends on names, global shapes and dtypes alone, so that every process finds the same without a message, and
    a tensor keeps its owner from version to version.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in named}
    load, owner = [0] * world_size, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = load.index(min(load))
        owner[name] = rank
        load[rank] += sizes[name]
    return owner


def rank_state(
    model: torch.nn.Module, *, dtype: Dtypes = None, group: dist.ProcessGroup | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that this process owns, whole, under the names of the checkpoint file.

    A collective: every process of `group` walks it to its end. A tensor travels only to its owner, and in the dtype
    that is published, unless it is sharded over another dimension than the first or over several.
    """
    world = dist.get_world_size(group)
    named = list(named_tensors(model))
    owner = owners(named, world)
    names = Names(model, dtype)

    def mine() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in named:
            small = names.dtype_of(plain_name(name)) if tensor.dtype.is_floating_point else None
            gathered = gather_to(tensor, owner[name], dtype=small, group=group)
            if gathered is not None:
                yield name, gathered

    return names.convert(mine())


@torch.no_grad()
def gather_to(
    tensor: torch.Tensor, destination: int, *, dtype: torch.dtype | None = None, group: dist.ProcessGroup | None = None
) -> torch.Tensor | None:
    """The whole tensor on rank `destination` of `group`, `None` on the others. A collective."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    if not isinstance(tensor, DTensor):
        return tensor.detach() if rank == destination else None
    mesh = tensor.device_mesh
    first = len(tensor.placements) == 1 and tensor.placements[0].is_shard(0) and mesh.size() == world
    if not first:
        gathered = whole(tensor)
        return gathered if rank == destination else None

    local = tensor.to_local().detach()
    local = local.to(dtype) if dtype is not None else local
    # Shards may be uneven, and the last ones empty: all send as many rows as the largest has.
    rows = -(-tensor.shape[0] // world)
    padded = local.new_zeros((rows, *tensor.shape[1:]))
    padded[: local.shape[0]] = local
    # As bytes: gloo does not send every dtype.
    data = padded.reshape(-1).view(torch.uint8)
    parts = [torch.empty_like(data) for _ in range(world)] if rank == destination else None
    mesh_group = mesh.get_group()
    dist.gather(data, parts, dst=dist.get_global_rank(mesh_group, destination), group=mesh_group)
    if parts is None:
        return None
    return torch.cat(parts).view(local.dtype).view(rows * world, *tensor.shape[1:])[: tensor.shape[0]]


def doubled(names: Iterable[str], group: dist.ProcessGroup | None = None) -> set[str]:
    """Those of this process's names that a process of a lower rank has too. A collective.

    Pipeline stages export tied embeddings from the first stage and the last: only one of them may publish such a name.
    """
    everything: list[list[str]] = [[] for _ in range(dist.get_world_size(group))]
    mine = list(names)
    dist.all_gather_object(everything, mine, group=group)
    lower = {name for others in everything[: dist.get_rank(group)] for name in others}
    return lower.intersection(mine)
