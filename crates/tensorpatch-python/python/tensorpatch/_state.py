"""Telling apart the forms of a state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tensorpatch._types import StateLike, StrPath, TensorLike
from tensorpatch.exceptions import UsageError

_METADATA = "__metadata__"
"""What a safetensors file calls that of its header which is no tensor."""


def path_of(state: StateLike) -> StrPath | None:
    """The path, if the state is one."""
    return state if isinstance(state, str | os.PathLike) else None


def pairs_of(state: Any) -> Iterator[tuple[str, TensorLike]]:
    """The names and tensors of a mapping or an iterable, each checked when it is taken."""
    if isinstance(state, Mapping):
        return map(_checked, state.items())
    if isinstance(state, Iterable) and not isinstance(state, bytes | bytearray | memoryview):
        return map(_checked, state)
    kind = type(state).__name__
    if hasattr(state, "state_dict"):
        raise TypeError(f"a {kind} is no state, but has one: give its state_dict()")
    raise TypeError(f"a state is a path, a mapping of names to tensors, or pairs of both; not {kind}")


def _checked(pair: Any) -> tuple[str, TensorLike]:
    try:
        name, tensor = pair
    except (TypeError, ValueError):
        raise TypeError(f"a state has pairs of a name and a tensor; not {type(pair).__name__}") from None
    if not isinstance(name, str):
        raise TypeError(f"the name of a tensor is a text, not {name!r}")
    if name == _METADATA:
        told = f'no tensor can have the name "{_METADATA}": safetensors files keep it for themselves'
        raise UsageError(told, "refused")
    if hasattr(tensor, "placements") and hasattr(tensor, "device_mesh"):
        raise UsageError(
            f'tensor "{name}" is distributed over processes: publish with tensorpatch.training_ranks.RankPublisher and '
            "tensorpatch.torch.rank_state, each process what it owns, or gather it by full_tensor()",
            "refused",
        )
    return name, tensor


def triples_of(changes: Any) -> Iterator[tuple[str, TensorLike, TensorLike]]:
    """The names, indices and values of changes, each checked when it is taken."""
    if isinstance(changes, Mapping | str | bytes) or not isinstance(changes, Iterable):
        raise TypeError(f"changes are triples of a name, indices and values; not {type(changes).__name__}")
    return map(_checked_change, changes)


def _checked_change(change: Any) -> tuple[str, TensorLike, TensorLike]:
    try:
        name, indices, values = change
    except (TypeError, ValueError):
        raise TypeError(f"changes are triples of a name, indices and values; not {type(change).__name__}") from None
    if not isinstance(name, str):
        raise TypeError(f"the name of a tensor is a text, not {name!r}")
    return name, indices, values
