"""Telling apart the forms of a state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

from tensorpatch._types import StateLike, StrPath, TensorLike


def path_of(state: StateLike) -> StrPath | None:
    """The path, if the state is one."""
    return cast("StrPath", state) if isinstance(state, str | os.PathLike) else None


def pairs_of(state: Any) -> Iterable[tuple[str, TensorLike]]:
    """The names and tensors of a mapping or an iterable."""
    if isinstance(state, Mapping):
        return state.items()
    if isinstance(state, Iterable):
        return state
    raise TypeError(
        f"a state is a path, a mapping of names to tensors, or pairs of both; not {type(state).__name__}"
    )
