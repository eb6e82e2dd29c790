"""What a patch changes, for receivers that scatter it into tensors of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tensorpatch import _native
from tensorpatch._checks import check
from tensorpatch._native import Array
from tensorpatch._replica import Prepared
from tensorpatch._types import StrPath
from tensorpatch.exceptions import UsageError


class TensorPatch(NamedTuple):
    """What changes in one tensor."""

    name: str
    dtype: str
    """As safetensors spells it: ``BF16``, ``F8_E4M3``, ``F4``."""
    shape: tuple[int, ...]
    """The shape of the whole tensor."""
    indices: Array | None
    """Flat indices of the elements that change, ascending, as 64-bit integers. None if ``values`` are the
    whole tensor: it is new, has another dtype or shape, or more than half of it changes. Of a dtype that
    packs two elements in a byte, indices and values are whole bytes."""
    values: Array
    """The new values: flat, in the order of the indices, or the whole tensor in its shape."""


def patches(
    source: Prepared | StrPath,
    *,
    base: StrPath | None = None,
    names: Iterable[str] | None = None,
    threads: int | None = None,
) -> Iterator[TensorPatch]:
    """What a prepared version, or a patch file, changes: one tensor at a time, with absolute values.

    It works for patches of every profile, a compact one too: that is decoded over the files of the replica,
    or of the checkpoint ``base``, which are verified before and are not altered. Several patches on the way to
    a prepared version are taken together. A full patch, and a replica that holds nothing, give every tensor
    whole. With ``names`` only these tensors are looked at.

    Tensors are found one ahead on a thread of their own, on ``threads`` threads for a patch file. Until the
    iterator is exhausted or closed, its prepared version cannot be activated. Indices and values go to torch
    by ``torch.from_dlpack``, and to NumPy, for its own types, by ``numpy.asarray``: without a copy, so they
    are not to be written to.

    Raises ``WrongBaseError`` if the patch was made from another base, ``DamagedError`` if it is damaged, and
    ``UsageError`` if the prepared version was activated before.
    """
    check(names=names, threads=threads)
    wanted = None if names is None else list(names)
    if isinstance(source, Prepared):
        if base is not None:
            raise UsageError("a prepared version has its replica as base", "refused")
        found = _native.patches_of_prepared(source._native, wanted)
    else:
        found = _native.patches_of_file(source, base, wanted, threads)
    return _taken(found)


def _taken(found: _native.Patches) -> Iterator[TensorPatch]:
    try:
        for name, dtype, shape, indices, values in found:
            yield TensorPatch(name, dtype, tuple(shape), indices, values)
    finally:
        found.close()
