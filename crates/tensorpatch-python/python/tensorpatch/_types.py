"""What the functions of the package take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from tensorpatch._native import Raw

__all__ = [
    "Changes",
    "Companions",
    "Future",
    "ProgressCallback",
    "StateLike",
    "StrPath",
    "SupportsArrayInterface",
    "SupportsDLPack",
    "TensorLike",
]

if TYPE_CHECKING:
    from concurrent.futures import Future
else:

    class Future:
        """Stands for that of ``concurrent.futures``, which importing the package does not load, in annotations."""

        def __class_getitem__(cls, result: Any) -> Any:
            from concurrent.futures import Future

            return Future[result]


StrPath: TypeAlias = str | PathLike[str]


@runtime_checkable
class SupportsDLPack(Protocol):
    """A tensor of torch, JAX, NumPy or whatever else exports DLPack, in host memory.

    A tensor on an accelerator is copied to the host by its ``cpu`` method. One that is not contiguous is
    copied, too; all others are read where they are. While a call reads a tensor, no other thread may write to
    it.
    """

    def __dlpack__(self) -> Any: ...


@runtime_checkable
class SupportsArrayInterface(Protocol):
    """An array that NumPy can view, those of ml_dtypes included."""

    @property
    def __array_interface__(self) -> Any: ...


TensorLike: TypeAlias = SupportsDLPack | SupportsArrayInterface | Raw

StateLike: TypeAlias = StrPath | Mapping[str, TensorLike] | Iterable[tuple[str, TensorLike]]
"""A state: the path of a checkpoint, a mapping such as a state dict, or pairs that are made one at a time."""

Changes: TypeAlias = Iterable[tuple[str, TensorLike, TensorLike]]
"""Names, flat indices in ascending order, and the new values in the same order."""

Companions: TypeAlias = Mapping[str, bytes | StrPath]
"""Files beside the weights, such as ``config.json``, by name: their contents, or the paths of files."""

ProgressCallback: TypeAlias = Callable[[str, int, int], object]
"""Called with the phase at work, the bytes done and the bytes to do, from the thread that waits. The bytes to do are
never 0 and never less than those done, which they equal where they are not known. An exception of it ends the work, as
an interrupt does, and is raised by the call."""
