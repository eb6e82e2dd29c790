"""The native half. Use the package, not this module: it may change at any time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict, final

__version__: str
__all__ = [
    "Array",
    "Feed",
    "Job",
    "Patches",
    "Prepared",
    "Publisher",
    "Raw",
    "Replica",
    "Versions",
    "__version__",
    "apply",
    "convert",
    "diff_paths",
    "diff_tensors",
    "digest_path",
    "digest_tensors",
    "inspect",
    "open_publisher",
    "open_replica",
    "patches_of_file",
    "patches_of_prepared",
    "run_command",
]

_Path = str | PathLike[str]
_Done = Callable[[Any, BaseException | None], None]
_Progress = Callable[[str, int, int], object] | None

class _Access(TypedDict):
    url: str
    trust: Sequence[str]
    stream: str | None
    expect_tip: int | None
    storage: Mapping[str, str]
    threads: int | None

class _Publishing(TypedDict):
    baseline: _Path | None
    name: str | None
    sign_key: _Path | None
    profile: str
    anchors: bool
    anchor_every: int | None
    create: bool
    single_writer: bool
    leaf_hash: str | None
    allow_unchanged: bool
    carry: Sequence[str]

class _Following(TypedDict):
    directory: _Path
    mode: str
    durability: str
    inverse: bool
    replace: bool
    allow_code: bool
    verify: bool | None
    lease: str | None
    poll: float | None

class _Share(TypedDict):
    rank: int
    world_size: int
    whole: bool
    kept: bool
    attempt: str

class _Making(TypedDict):
    profile: str
    leaf_hash: str
    threads: int | None

class _Conversion(TypedDict):
    to: str
    base: _Path | None
    base_digest: str | None
    version: str | None
    base_version: str | None
    encoding: str | None
    checksum: str | None
    threads: int | None

def run_command(arguments: Sequence[str]) -> int: ...
def diff_paths(base: _Path | None, target: _Path, out: _Path, making: _Making, progress: _Progress) -> str: ...
def diff_tensors(
    base: _Path | list[tuple[str, Any]] | None,
    tensors: Iterable[tuple[str, Any]],
    out: _Path,
    kept: bool,
    making: _Making,
    progress: _Progress,
) -> str: ...
def apply(
    base: _Path | None, patch: _Path, out: _Path | None, threads: int | None, progress: _Progress
) -> str: ...
def inspect(patch: _Path) -> str: ...
def digest_path(checkpoint: _Path, hash: str, threads: int | None) -> str: ...
def digest_tensors(tensors: Iterable[tuple[str, Any]], hash: str, threads: int | None) -> str: ...
def convert(source: _Path, dest: _Path, conversion: _Conversion) -> str: ...
def patches_of_file(
    patch: _Path, base: _Path | None, names: Sequence[str] | None, threads: int | None
) -> Patches: ...
def patches_of_prepared(prepared: Prepared, names: Sequence[str] | None) -> Patches: ...
def open_publisher(access: _Access, publishing: _Publishing, done: _Done) -> Job: ...
def open_replica(access: _Access, following: _Following, done: _Done) -> Job: ...

@final
class Raw:
    """A tensor given by its bytes.

    dtype is a name of safetensors, such as "BF16" or "F8_E4M3". bytes are read where they are; any other
    buffer is copied.
    """

    def __new__(cls, dtype: str, shape: Sequence[int], buffer: Any) -> Raw: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

@final
class Job:
    def cancel(self) -> None: ...

@final
class Publisher:
    @property
    def baseline(self) -> Any: ...
    @property
    def stream(self) -> str: ...
    def position(self) -> tuple[str, int, int] | None: ...
    def publish(self, checkpoint: _Path, base: _Path | None, label: str | None, done: _Done) -> Job: ...
    def feed(
        self, label: str | None, others: Literal["refused", "kept", "removed"], done: _Done
    ) -> Job: ...
    def feed_rank(self, share: _Share, done: _Done) -> Job: ...
    def commit(self, receipts: Sequence[str], label: str | None, done: _Done) -> Job: ...
    def catch_up(self, done: _Done) -> Job: ...
    def settle(self, done: _Done) -> Job: ...
    def add_anchor(self, again: bool, done: _Done) -> Job: ...
    def roll_back(self, force: bool, done: _Done) -> Job: ...
    def latest(self, done: _Done) -> Job: ...
    def versions(self, done: _Done) -> Job: ...

@final
class Feed:
    def add(self, name: str, tensor: Any) -> None: ...
    def add_changes(self, name: str, indices: Any, values: Any) -> None: ...
    def add_companion(self, name: str, bytes: bytes) -> None: ...
    def add_companion_file(self, path: _Path) -> None: ...
    def abandon(self) -> None: ...
    def finish(self, done: _Done) -> Job: ...

@final
class Replica:
    @property
    def stream(self) -> str: ...
    def position(self) -> tuple[str, int, int] | None: ...
    def latest(self, done: _Done) -> Job: ...
    def versions(self, done: _Done) -> Job: ...
    def held(self, done: _Done) -> Job: ...
    def verify(self, done: _Done) -> Job: ...
    def pull(self, number: int | None, done: _Done) -> Job: ...
    def prepare(self, number: int | None, done: _Done) -> Job: ...
    def activate(self, prepared: Prepared, done: _Done) -> Job: ...
    def release(self, done: _Done) -> Job: ...
    def follow(self) -> Versions: ...

@final
class Versions:
    def next(self, done: _Done) -> Job: ...

@final
class Prepared:
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def needed(self) -> bool: ...
    @property
    def base_version(self) -> int | None: ...
    @property
    def plan_bytes(self) -> int: ...
    @property
    def downloaded_bytes(self) -> int: ...
    def close(self) -> None: ...

@final
class Patches:
    def __iter__(self) -> Patches: ...
    def __next__(self) -> tuple[str, str, list[int], Array | None, Array]: ...
    def close(self) -> None: ...

@final
class Array:
    """An array in host memory that frameworks take by DLPack, without a copy."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def tobytes(self) -> bytes: ...
    def __len__(self) -> int: ...
