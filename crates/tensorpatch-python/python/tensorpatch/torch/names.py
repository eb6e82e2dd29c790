"""The names and tensors that a model has in its checkpoint file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .. import UsageError

Dtypes = torch.dtype | Mapping[str, torch.dtype] | None
Named = Iterable[tuple[str, torch.Tensor]]
# For each tensor its dtype, as safetensors spells it, and its shape.
Specs = Mapping[str, tuple[str, tuple[int, ...]]]

# Wrappers of training put themselves into the names; the checkpoint file does not have them.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.|^module\.")
_SAFETENSORS = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip


def state_of(model: torch.nn.Module, *, dtype: Dtypes = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model, frozen ones and persistent buffers included, as `save_pretrained` would write them.

    Tied weights appear once, under the name of the file. Experts that transformers fuses are taken apart again.
    Nothing is copied unless it must be: a `dtype` other than the tensor's, a fused weight. `dtype` is one for all
    floating-point tensors, or one for each name (see `dtypes_of`). Sharded parameters (`DTensor`) are gathered on
    every process; `rank_state` is the cheaper way for those.
    """
    names = Names(model, dtype)
    return names.convert((name, whole(tensor)) for name, tensor in named_tensors(model))


class Names:
    """Turns what a model calls its tensors into what its checkpoint file calls them."""

    def __init__(self, model: torch.nn.Module | None = None, dtype: Dtypes = None) -> None:
        self._dtype = dtype
        self._revert = _reverter(model)

    def convert(self, named: Named) -> Iterator[tuple[str, torch.Tensor]]:
        """Renames, splits and casts a walk over a model. A layer of the model is held at a time."""
        for _, group in groupby(named, key=lambda pair: _layer(pair[0])):
            for name, tensor in self._revert({plain_name(n): t.detach() for n, t in group}).items():
                yield name, self._cast(name, tensor)

    def dtype_of(self, name: str) -> torch.dtype | None:
        """The dtype in which a floating-point tensor is published; `None` for its own."""
        return self._dtype.get(name) if isinstance(self._dtype, Mapping) else self._dtype

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        wanted = self.dtype_of(name)
        return tensor.to(wanted) if wanted is not None and tensor.dtype.is_floating_point else tensor


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, each once, sharded ones as they are."""
    if hasattr(model, "peft_config"):
        raise UsageError(
            "the model has adapters, which its checkpoint file does not know: merge them first "
            "(`model.merge_and_unload()`), or publish a merged copy",
            "refused",
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    ignored = [re.compile(key) for key in getattr(model, "_keys_to_ignore_on_save", None) or ()]
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        plain = plain_name(name)
        if plain in tied or id(tensor) in seen or any(key.search(plain) for key in ignored):
            continue
        seen.add(id(tensor))
        yield name, tensor


def plain_name(name: str) -> str:
    """A name without the parts that wrappers of training add."""
    return _WRAPPERS.sub("", name)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor of a sharded one; other tensors as they are. A collective for the former."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if callable(gather) else tensor).detach()


def dtype_named(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype that a caller calls by its name in torch, such as `bfloat16`."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None or isinstance(found, torch.dtype):
        return found
    raise UsageError(f'dtype is one of torch, such as "bfloat16", not {dtype!r}', "refused")


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of torch for one of safetensors, such as `BF16`."""
    try:
        return _SAFETENSORS[name]
    except KeyError:
        raise UsageError(f"torch has no dtype for {name} of safetensors", "refused") from None


def dtypes_of(checkpoint: Path) -> dict[str, torch.dtype]:
    """The dtype of each tensor of a checkpoint directory or file."""
    return {name: torch_dtype(dtype) for name, (dtype, _) in specs_of(checkpoint).items()}


def specs_of(checkpoint: Path) -> Specs:
    """The dtype and the shape of each tensor of a checkpoint directory or file, read from the headers."""
    files = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{checkpoint} has no .safetensors file", "refused")
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise UsageError(f"{path} is not a safetensors file: its header is longer than the file", "refused")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found.update((name, (entry["dtype"], tuple(entry["shape"]))) for name, entry in header.items())
    return found


def _layer(name: str) -> str:
    """What is converted together: the names up to the first number, which is that of the layer."""
    match = re.match(r".*?\.\d+\.", name)
    return match[0] if match else name


def _reverter(model: torch.nn.Module | None) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    if model is None or not hasattr(model, "config"):
        return lambda tensors: tensors
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers before 5 has the names of the file
        return lambda tensors: tensors
    reverted: Any = revert_weight_conversion
    return lambda tensors: dict(reverted(model, tensors))
