"""What an engine can do, found by looking at it and by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..torch.changes import bits
from .routing import Facts

# For each tensor: enough that a weight which lies elsewhere is met, few enough to cost nothing.
SAMPLES = 256


def facts_of(model: torch.nn.Module, model_config: Any, device: torch.device, checkpoint_patches: bool) -> Facts:
    """What can be seen without changing anything."""
    parameters = [p for p in model.parameters() if p.dtype.is_floating_point]
    return Facts(
        checkpoint_patches=checkpoint_patches,
        quantization=getattr(model_config, "quantization", None),
        empty_parameters=sum(p.numel() == 0 for p in parameters),
        fp8_scatter=_scatters_fp8(device),
    )


def _scatters_fp8(device: torch.device) -> bool:
    try:
        place = torch.zeros(2, dtype=torch.float8_e4m3fn, device=device)
        place.index_copy_(0, torch.zeros(1, dtype=torch.long, device=device), place[:1].clone())
        return bool(torch.isnan(place).logical_not().all())
    except (NotImplementedError, RuntimeError):
        return False


def scatter_is_exact(model: torch.nn.Module, checkpoint: Path, scatter: Callable[[Any], None]) -> bool:
    """Scatters values that the model has already, and tells whether every weight kept its bits.

    Kernels may keep weights in another order than the checkpoint, with the same shape. Then what is meant for one
    weight lands on another, and nothing but a try shows it. The weights are damaged if this returns `False`.
    """
    before = _sums(model)
    device = next(model.parameters()).device
    scatter(_samples(checkpoint, device))
    return _sums(model) == before


def _sums(model: torch.nn.Module) -> list[int]:
    tensors = [*model.parameters(), *model.buffers()]
    return [int(bits(t).sum(dtype=torch.int64)) for t in tensors if t.numel()]


def _samples(checkpoint: Path, device: torch.device) -> Iterator[tuple[Any, ...]]:
    chance = torch.Generator().manual_seed(0)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names: Any = file.keys()
            for name in names:
                tensor = file.get_tensor(name)
                if tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
                    continue
                if not tensor.numel():
                    continue
                places = torch.unique(torch.randint(tensor.numel(), (SAMPLES,), generator=chance))
                values = tensor.reshape(-1)[places]
                kept = ~torch.isnan(values)
                yield name, tuple(tensor.shape), tensor.dtype, values[kept].to(device), places[kept].to(device)
