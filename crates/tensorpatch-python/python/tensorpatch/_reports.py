"""Results: frozen dataclasses, made from the JSON of the native half."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

_R = TypeVar("_R", bound="Report")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A result. ``to_dict`` gives plain values that JSON can hold."""

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, reports in them as dicts."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class EncodingUse(Report):
    """How often a patch uses an encoding."""

    encoding: str
    """Its name in the specification, such as ``sparse``."""
    chunks: int
    """Chunks that are encoded by it."""
    bytes: int
    """Bytes of its payloads."""


@dataclass(frozen=True, kw_only=True)
class DiffReport(Report):
    """A patch that was made."""

    kind: str
    """``delta``, ``empty`` if nothing changed, or ``full`` for a patch that needs no base."""
    base: str | None
    """The digest of the base; None for a full patch."""
    target: str
    """The digest of the state that it leads to."""
    patch_bytes: int
    """Bytes of the patch file."""
    changed_elements: int
    """Elements whose bits differ from the base; all of a full patch."""
    total_elements: int
    """Elements of all tensors of the target."""
    total_chunks: int
    """Chunks of at most 1 MiB."""
    encodings: tuple[EncodingUse, ...]
    """How its chunks are encoded."""


@dataclass(frozen=True, kw_only=True)
class ApplyReport(Report):
    """A patch that was applied, and verified."""

    base: str | None
    """The digest of the base; None for a full patch."""
    target: str
    """The digest of the result."""
    recovered: bool
    """Whether this call only finished what an interrupted one had begun."""
    changed_chunks: int | None
    """Chunks of at most 1 MiB; None after a recovery."""
    state_bytes: int
    """Bytes of all tensors."""
    same_files: bool
    """Whether the files are the author's byte for byte; otherwise the tensors are, in the base's files."""


@dataclass(frozen=True, kw_only=True)
class PatchInfo(Report):
    """What is in a patch."""

    format_version: str
    """The version of the format, such as ``1.0``."""
    kind: str
    """``delta``, ``empty`` or ``full``, as in ``DiffReport``."""
    profile: str
    """``compact`` or ``direct``."""
    leaf_hash: str
    """The hash of its digests: ``xxh3`` or ``blake3``."""
    file_bytes: int
    """Bytes of the patch file."""
    base: str | None
    """The digest of the base; None for a full patch."""
    target: str
    """The digest of the state that it leads to."""
    tensors: tuple[str, ...] | None
    """Names of all tensors of the target, if the patch lists them; otherwise they are the base's."""
    files: tuple[str, ...] | None
    """Names of the target's files, if the patch lists them; otherwise they are the base's."""
    encodings: tuple[EncodingUse, ...]
    """How its chunks are encoded."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport(Report):
    """A conversion."""

    source_format: str
    """What the source was found to be."""
    source_version: str | None
    """The version that the source says it is, if it does."""
    source_base_version: str | None
    """The version that the source says it is a change from, if it does."""
    verified: str
    """How much of the target the source vouches for: ``state``, ``changed-tensors`` or ``nothing``."""
    files: int
    """Files that were written."""
    bytes: int
    """Bytes of those files."""
    base: str | None
    """The digest of the base, if there is one."""
    target: str
    """The digest of the state that the source makes."""
    changed_tensors: int
    """Tensors that differ from the base."""
    notes: tuple[str, ...]
    """What the other format cannot express, or does not vouch for."""


@dataclass(frozen=True, kw_only=True)
class Version(Report):
    """A version of a stream, as its commit record has it."""

    version: int
    """The number, from 1."""
    commit: str
    """The digest of the commit record."""
    kind: str
    """``anchor``, ``delta``, or ``empty`` for a delta that changes nothing."""
    digest: str
    """The digest of the state, as ``tensorpatch.digest`` computes it."""
    schema: str
    """The digest of the names, dtypes and shapes of all tensors: equal if nothing but values changed."""
    layout: str
    """The digest of how the tensors lie in files."""
    state_bytes: int
    """Bytes of all tensors."""
    tensors: int
    """How many tensors there are."""
    label: str | None
    """The mark that it was published under; None if there is none."""
    publisher: str
    """The name of its publisher."""
    created: int
    """Seconds since 1970, by the publisher's clock."""


@dataclass(frozen=True, kw_only=True)
class LeftOut(Report):
    """A file or directory that is not published along with a checkpoint."""

    name: str
    """Its path below the directory of the checkpoint; that of a directory ends in ``/``."""
    why: str
    """The reason, in words."""


@dataclass(frozen=True, kw_only=True)
class AnchorAdded(Report):
    """An anchor that was added to a version, unless it had one already."""

    version: int
    """The version that has it."""
    bytes: int
    """Bytes that were uploaded."""
    added: bool
    """False if the version had one already."""


@dataclass(frozen=True, kw_only=True)
class Published(Report):
    """A version that was published."""

    stream: str
    """The id of the stream."""
    version: int
    """The number, from 1."""
    commit: str
    """The digest of the commit record."""
    base: int | None
    """The version that it is a patch to."""
    kind: str
    """``anchor`` for a whole checkpoint, ``delta`` for a patch, or ``empty`` for a patch that changes nothing."""
    digest: str
    """The digest of the state, as ``tensorpatch.digest`` computes it."""
    schema: str
    """The digest of the names, dtypes and shapes of all tensors: another one than before if a tensor came or went, or
    has another dtype or shape."""
    layout: str
    """The digest of how the tensors lie in files."""
    state_bytes: int
    """Bytes of all tensors: twice as many as before if a cast from 32 to 16 bits was forgotten."""
    tensors: int
    """How many tensors there are."""
    bytes: int
    """Bytes of its own objects that were uploaded."""
    changed_elements: int | None
    """None for an anchor."""
    total_elements: int | None
    """Elements of all tensors; None for an anchor."""
    resumed: bool
    """Whether it was published already, under the same label by an attempt whose end was not seen."""
    unchanged: bool = False
    """Whether nothing was published, because the newest version is this state already and no label was given."""
    companions: tuple[str, ...] = ()
    """The files beside the weights that the version has."""
    left_out: tuple[LeftOut, ...] = ()
    """What of a checkpoint on disk it does not have. ``carry`` takes a file along."""
    anchor: AnchorAdded | None = None
    """The anchor that was due and was added."""
    anchor_error: str | None = None
    """Why the anchor that was due could not be added. The next version tries again."""


@dataclass(frozen=True, kw_only=True)
class RolledBack(Report):
    """Versions that were taken back."""

    tip: int | None
    """The newest version now."""
    removed: tuple[int, ...]
    """The versions whose records were removed, from the newest down."""


@dataclass(frozen=True, kw_only=True)
class PulledEdge(Report):
    """One step of a pull."""

    version: int
    """The version that it leads to."""
    anchor: bool
    """Whether it is a whole checkpoint, and no patch."""
    bytes: int
    """Bytes of its objects."""


@dataclass(frozen=True, kw_only=True)
class Pulled(Report):
    """What a pull did."""

    stream: str
    """The id of the stream."""
    previous: int | None
    """The version that was held before."""
    version: int
    """The version that is held now."""
    commit: str
    """The digest of the commit record."""
    digest: str
    """The digest of the state."""
    schema: str
    """The digest of the names, dtypes and shapes of all tensors."""
    layout: str
    """The digest of how the tensors lie in files."""
    state_bytes: int
    """Bytes of all tensors."""
    tensors: int
    """How many tensors there are."""
    edges: tuple[PulledEdge, ...]
    """The steps that led to the version; none if it was held already."""
    plan_bytes: int
    """Bytes of the patches or files of these steps."""
    downloaded_bytes: int
    """Bytes fetched, without what was there already."""
    verified: bool = False
    """Whether the weights were hashed by this pull. If not, they are the version by what is recorded of them."""
    restored: tuple[str, ...] = ()
    """What was not as it was published before, and is again."""
    fetch_seconds: float = 0.0
    """Until everything was at hand: records read, local files looked at, objects downloaded."""
    stage_seconds: float = 0.0
    """Until the new version was ready: patches decoded and verified, journals or new files written."""
    activate_seconds: float = 0.0
    """Until the directory held it: files altered in place or renamed."""


@dataclass(frozen=True, kw_only=True)
class Fault(Report):
    """A file that is not as it was published."""

    path: str
    """The file, or the directory if it is about all weights."""
    what: str
    """What is wrong with it, in words."""


@dataclass(frozen=True, kw_only=True)
class Verified(Report):
    """What a directory holds, every byte of it read."""

    stream: str
    """The id of the stream."""
    version: int
    """The version that it holds."""
    commit: str
    """The digest of the commit record."""
    digest: str
    """The digest of the state that it should hold."""
    companions: tuple[str, ...]
    """The files beside the weights."""
    faults: tuple[Fault, ...]
    """What is not as it was published; nothing if all is."""


# What the library calls otherwise than this package.
_NAMES = {"state": "digest", "from": "previous", "to": "version"}
_PARTS: dict[str, type[Report]] = {
    "encodings": EncodingUse,
    "edges": PulledEdge,
    "anchor": AnchorAdded,
    "left_out": LeftOut,
    "faults": Fault,
}


def made(report: type[_R], text: str) -> _R:
    """The report that a JSON document of the native half describes. Fields that are new are left out."""
    return _of(report, json.loads(text))


def one(report: type[_R]) -> Callable[[str], _R]:
    """What makes such a report of a document."""
    return lambda text: made(report, text)


def one_or_none(report: type[_R]) -> Callable[[str], _R | None]:
    """As ``one``, for a document that may be null."""

    def convert(text: str) -> _R | None:
        found = json.loads(text)
        return None if found is None else _of(report, found)

    return convert


def all_of(report: type[_R]) -> Callable[[str], tuple[_R, ...]]:
    """As ``one``, for a list."""
    return lambda text: tuple(_of(report, found) for found in json.loads(text))


def _of(report: type[_R], found: Mapping[str, Any]) -> _R:
    known = {field.name for field in dataclasses.fields(report)}
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = _NAMES.get(key, key)
        if name not in known:
            continue
        part = _PARTS.get(name)
        if isinstance(value, list):
            value = tuple(_of(part, item) if part else item for item in value)
        elif part and isinstance(value, dict):
            value = _of(part, value)
        values[name] = value
    return report(**values)
