"""Which elements of a tensor changed: a bitwise comparison on the device that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Indices of 8 bytes for the words that differ would be large on a device that is full: compare a slice at a time.
_SLICE = 1 << 26


class Change(NamedTuple):
    """The elements of a tensor that differ from the state before, in host memory."""

    name: str
    indices: torch.Tensor  # flat and ascending; int32, or int64 where the tensor has more than 2^31 elements
    values: torch.Tensor  # one for each index, in the dtype of the tensor


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A flat view of the tensor as integers, so that -0.0 differs from 0.0 and a NaN equals itself."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.dtype.is_complex:
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(_INTEGER[flat.element_size()])


def changed(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The flat indices, ascending, of the elements whose bits differ. Both tensors have one dtype, shape and device.

    The result stays on the device. Its size is that of the changes, and so is what leaves the device if only it and
    the values under it are copied.
    """
    if old.dtype != new.dtype or old.shape != new.shape or old.device != new.device:
        raise ValueError(
            f"cannot compare {old.dtype} {tuple(old.shape)} on {old.device} "
            f"with {new.dtype} {tuple(new.shape)} on {new.device}"
        )
    width = 2 if new.dtype.is_complex else 1
    before, after = bits(old), bits(new)
    found = [
        _differing(before[start : start + _SLICE], after[start : start + _SLICE]) + start
        for start in range(0, before.numel(), _SLICE)
    ]
    indices = torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=new.device)
    if width == 2:
        indices = torch.unique(torch.div(indices, width, rounding_mode="floor"))
    return indices.to(torch.int32) if new.numel() < 1 << 31 else indices


def _differing(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    lanes = 8 // before.element_size()
    whole = before.numel() // lanes * lanes
    if lanes == 1 or whole < before.numel() or before.data_ptr() % 8 or after.data_ptr() % 8:
        return (before != after).nonzero().reshape(-1)
    # Most words of 8 bytes are equal: only those that are not are looked at element by element.
    words = (before.view(torch.int64) != after.view(torch.int64)).nonzero().reshape(-1)
    inside = before.view(-1, lanes)[words] != after.view(-1, lanes)[words]
    row, lane = inside.nonzero(as_tuple=True)
    return words[row] * lanes + lane


class Snapshot:
    """The state that was published last, on the device of the tensors: one copy, in the dtype that is published."""

    def __init__(self) -> None:
        self._tensors: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @torch.no_grad()
    def update(self, name: str, tensor: torch.Tensor) -> Change | None:
        """Remembers `tensor` and returns what differs from the one before; `None` if nothing does.

        A tensor that was not there, or had another dtype or shape, is remembered and gives `None`: `missing` says
        whether that will happen, and then the whole tensor has to be published.
        """
        new = tensor.detach()
        if self.missing(name, new):
            self._tensors[name] = new.clone(memory_format=torch.contiguous_format)
            return None
        held = self._tensors[name]
        indices = changed(held, new)
        if not indices.numel():
            return None
        places = indices.long()
        values = _elements(new)[places]
        _elements(held)[places] = values
        return Change(name, indices.cpu(), values.cpu().view(new.dtype))

    def missing(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether nothing comparable is remembered under this name."""
        held = self._tensors.get(name)
        return (
            held is None or held.dtype != tensor.dtype or held.shape != tensor.shape or held.device != tensor.device
        )

    def on_host(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """The remembered tensors in host memory, one at a time."""
        for name in list(self._tensors) if names is None else names:
            yield name, self._tensors[name].cpu()

    def clear(self) -> None:
        """Forgets everything, so that the next state is published whole."""
        self._tensors.clear()


def _elements(tensor: torch.Tensor) -> torch.Tensor:
    """A flat view that can be indexed: as integers, because indexing does not know every dtype on every device."""
    return tensor.contiguous().reshape(-1) if tensor.dtype.is_complex else bits(tensor)
