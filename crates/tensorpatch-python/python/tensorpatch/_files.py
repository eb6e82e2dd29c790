"""Patches between checkpoints, on disk or in memory."""

from __future__ import annotations

from typing import Literal

from tensorpatch import _native, _progress
from tensorpatch._checks import check
from tensorpatch._reports import ApplyReport, ConvertReport, DiffReport, PatchInfo, made
from tensorpatch._state import pairs_of, path_of
from tensorpatch._types import ProgressCallback, StateLike, StrPath
from tensorpatch.exceptions import UsageError


def diff(
    base: StateLike | None,
    target: StateLike,
    out: StrPath,
    *,
    partial: bool = False,
    profile: Literal["compact", "direct"] = "compact",
    leaf_hash: Literal["xxh3", "blake3"] = "xxh3",
    threads: int | None = None,
    progress: ProgressCallback | bool | None = None,
) -> DiffReport:
    """Writes the patch that makes ``target`` of ``base`` to the file ``out``.

    Each is the path of a checkpoint, a mapping of names to tensors, or pairs of both. The tensors of a target
    are compared one at a time while they are alive, without a copy; those of a base in memory are all held.
    Without a base the patch is a full one, which needs none to be applied.

    With ``partial`` the target may lack tensors of the base, which stay as they are; without it they are an
    error. The profile ``direct`` makes patches that can be scattered without reading the base. The file
    appears when it is whole.

    Raises ``UsageError`` if a tensor is missing, doubled or none that a patch can hold, ``DamagedError`` if a
    checkpoint is damaged, and ``StorageError`` if one cannot be read or ``out`` cannot be written.
    """
    check(partial=partial, threads=threads, progress=progress)
    making: _native._Making = {"profile": profile, "leaf_hash": leaf_hash, "threads": threads}
    listening = _progress.listener(progress)
    base_path = None if base is None else path_of(base)
    target_path = path_of(target)
    try:
        if target_path is not None and not partial and (base is None or base_path is not None):
            return made(DiffReport, _native.diff_paths(base_path, target_path, out, making, listening))
        if target_path is not None:
            raise UsageError(
                "a target on disk is compared with a base on disk, as a whole: give its tensors", "refused"
            )
        old = base_path if base is None or base_path is not None else list(pairs_of(base))
        text = _native.diff_tensors(old, pairs_of(target), out, partial, making, listening)
        return made(DiffReport, text)
    finally:
        _progress.close(listening)


def apply(
    base: StrPath | None,
    patch: StrPath,
    out: StrPath | None = None,
    *,
    in_place: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | bool | None = None,
) -> ApplyReport:
    """Makes the checkpoint that the author of ``patch`` had, bit for bit: a new one at ``out``, or, with
    ``in_place``, of ``base`` itself. A full patch has no base: give None.

    Base and result are verified by digest, and appear whole or not at all. In place a journal is kept: after
    a crash the same call finishes what was begun.

    Raises ``WrongBaseError`` if the patch was made from another base, ``DamagedError`` if it or the base is
    damaged, and ``UsageError`` if it cannot be applied in place.
    """
    check(threads=threads, progress=progress)
    if in_place == (out is not None):
        raise UsageError("give either out, or in_place=True", "refused")
    listening = _progress.listener(progress)
    try:
        return made(ApplyReport, _native.apply(base, patch, out, threads, listening))
    finally:
        _progress.close(listening)


def inspect(patch: StrPath) -> PatchInfo:
    """What is in the patch at the path ``patch``, after checking its structure and checksums."""
    return made(PatchInfo, _native.inspect(patch))


def digest(
    state: StateLike, *, leaf_hash: Literal["xxh3", "blake3"] = "xxh3", threads: int | None = None
) -> str:
    """The digest of a whole state: of every tensor's name, dtype, shape and bytes, whatever its files.

    It is a text such as ``xxh3:ada02e7b016a...``, equal for a checkpoint and for its tensors in memory.
    """
    check(threads=threads)
    path = path_of(state)
    if path is not None:
        return _native.digest_path(path, leaf_hash, threads)
    return _native.digest_tensors(pairs_of(state), leaf_hash, threads)


def convert(
    source: StrPath,
    dest: StrPath,
    *,
    to: Literal[
        "checkpoint", "patch", "slime", "modelexpress", "trl-a", "trl-b", "trl-c-raw", "trl-c-gaps"
    ],
    base: StrPath | None = None,
    base_digest: str | None = None,
    version: str | None = None,
    base_version: str | None = None,
    encoding: Literal["xor", "overwrite"] | None = None,
    checksum: Literal["xxh3-128", "blake3", "adler32"] | None = None,
    threads: int | None = None,
) -> ConvertReport:
    """Converts one version between a patch, a checkpoint, and the delta formats of other projects.

    What ``source`` is is found out from its contents. ``base`` is the checkpoint that it is a change from,
    and ``base_digest`` what its digest must be: most of these formats do not say which base is theirs.
    ``version`` and ``base_version`` are for the result, where the source does not say. ``encoding`` and
    ``checksum`` are for ``slime``. Nothing is at ``dest`` until all of it is.

    Raises ``DamagedError`` if the source breaks a rule of its format, and ``UsageError`` if the format to be
    written cannot express the change.
    """
    check(threads=threads)
    conversion: _native._Conversion = {
        "to": to,
        "base": base,
        "base_digest": base_digest,
        "version": version,
        "base_version": base_version,
        "encoding": encoding,
        "checksum": checksum,
        "threads": threads,
    }
    return made(ConvertReport, _native.convert(source, dest, conversion))
