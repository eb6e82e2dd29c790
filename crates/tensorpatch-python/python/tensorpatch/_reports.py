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
    chunks: int
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
    patch_bytes: int
    """Bytes of the patch file."""
    changed_elements: int
    total_elements: int
    total_chunks: int
    """Chunks of at most 1 MiB."""
    encodings: tuple[EncodingUse, ...]


@dataclass(frozen=True, kw_only=True)
class ApplyReport(Report):
    """A patch that was applied, and verified."""

    base: str | None
    target: str
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
    kind: str
    profile: str
    leaf_hash: str
    file_bytes: int
    base: str | None
    target: str
    tensors: tuple[str, ...] | None
    """Names of all tensors of the target, if the patch lists them; otherwise they are the base's."""
    files: tuple[str, ...] | None
    """Names of the target's files, if the patch lists them; otherwise they are the base's."""
    encodings: tuple[EncodingUse, ...]


@dataclass(frozen=True, kw_only=True)
class ConvertReport(Report):
    """A conversion."""

    source_format: str
    source_version: str | None
    source_base_version: str | None
    verified: str
    """How much of the target the source vouches for: ``state``, ``changed-tensors`` or ``nothing``."""
    files: int
    bytes: int
    base: str | None
    target: str
    changed_tensors: int
    notes: tuple[str, ...]


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
    layout: str
    state_bytes: int
    tensors: int
    label: str | None
    publisher: str
    created: int
    """Seconds since 1970, by the publisher's clock."""


@dataclass(frozen=True, kw_only=True)
class LeftOut(Report):
    """A file or directory that is not published along with a checkpoint."""

    name: str
    """Its path below the directory of the checkpoint; that of a directory ends in ``/``."""
    why: str


@dataclass(frozen=True, kw_only=True)
class AnchorAdded(Report):
    """An anchor that was added to a version, unless it had one already."""

    version: int
    bytes: int
    added: bool


@dataclass(frozen=True, kw_only=True)
class Published(Report):
    """A version that was published."""

    stream: str
    version: int
    commit: str
    """The digest of the commit record."""
    base: int | None
    """The version that it is a patch to."""
    kind: str
    digest: str
    """The digest of the state, as ``tensorpatch.digest`` computes it."""
    schema: str
    layout: str
    state_bytes: int
    tensors: int
    bytes: int
    """Bytes of its own objects that were uploaded."""
    changed_elements: int | None
    """None for an anchor."""
    total_elements: int | None
    resumed: bool
    """Whether it was published already, by an attempt whose end was not seen."""
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
    anchor: bool
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Pulled(Report):
    """What a pull did."""

    stream: str
    previous: int | None
    """The version that was held before."""
    version: int
    """The version that is held now."""
    commit: str
    digest: str
    """The digest of the state."""
    schema: str
    layout: str
    state_bytes: int
    tensors: int
    edges: tuple[PulledEdge, ...]
    plan_bytes: int
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


@dataclass(frozen=True, kw_only=True)
class Verified(Report):
    """What a directory holds, every byte of it read."""

    stream: str
    version: int
    commit: str
    digest: str
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
