"""Publishing versions of a stream."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

from tensorpatch import _native
from tensorpatch._checks import check
from tensorpatch._jobs import Opened, Start, as_it_is, nothing, wait, wait_async
from tensorpatch._reports import AnchorAdded, Published, RolledBack, Version, all_of, one, one_or_none
from tensorpatch._state import pairs_of, path_of, triples_of
from tensorpatch._types import Changes, Companions, Future, ProgressCallback, StateLike, StrPath
from tensorpatch.exceptions import NotFoundError, UsageError

T = TypeVar("T")

_published = one(Published)

Others: TypeAlias = Literal["refused", "kept", "removed"]
"""What becomes of the tensors of the version before that are not given."""


class Publisher:
    """Publishes states as versions of the stream at ``url``.

    The first version is a whole checkpoint, the others are patches. The publisher keeps a baseline, a
    directory with the newest version, to make patches from.

    It may be shared by threads: one call at a time does its work, and the others wait. A process that was
    forked must open its own. Opening it creates the stream if there is none; what is published first brings
    the baseline to the tip. ``close``, or leaving a ``with`` block, waits for what is published in the background.

    Args:
        url: A path or ``file:///PATH``, ``s3://BUCKET/PREFIX``, ``gs://``, ``az://`` or ``hf://buckets/``,
            with the credentials that each provider's own tools use.
        baseline: The directory of the baseline; in the user's cache by default. It may be deleted at any
            time, and is restored from the stream.
        name: The publisher's name in the log.
        sign_key: The file of a secret key, made by ``tensorpatch keygen``, to sign every record with.
        trust: Public keys, of 64 hexadecimal digits. What is built on must be signed by one of these.
        stream: The id that the stream must have. A key may have signed several.
        expect_tip: A version that is known to exist. A stream that does not show it is a ``ConflictError``.
        profile: ``compact`` for the smallest patches, ``direct`` for those that can be scattered without
            reading the base.
        anchors: Whether versions get anchors at all, whole checkpoints for newcomers.
        anchor_every: An anchor after so many versions without one, instead of when it pays.
        create: Whether a missing stream is created; otherwise it is a ``NotFoundError``.
        single_writer: For a new stream, the promise that there is never another publisher, for stores that
            could not tell.
        leaf_hash: The leaf hash of a new stream, by default ``blake3`` if it is signed, else ``xxh3``; an
            existing one must have it.
        allow_unchanged: Whether a state that is the newest version already becomes a version all the same.
        carry: Files beside the weights of a checkpoint on disk that are published although their names say
            weights of another format, a leftover or a log: paths below it, such as ``onnx/model.onnx``.
        threads: Threads that encode and hash; one for each core by default.
        storage: Settings of the transfer by name, such as ``{"parallel_uploads": "16"}``; see
            ``tensorpatch publish --help``. Those of the environment are the default.
        progress: Called with the phase, the bytes done and the bytes to do, which are never 0; an exception of it
            ends the work. None shows a bar of tqdm, if it is installed, on a terminal or in a notebook; False shows
            nothing.

    Raises:
        ConflictError: The baseline belongs to another stream.
        NotFoundError: There is no stream, and none is to be created.
        StorageError: The store or a disk failed.
        UntrustedError: A record is not signed by a trusted key.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        baseline: StrPath | None = None,
        name: str | None = None,
        sign_key: StrPath | None = None,
        trust: Sequence[str] = (),
        stream: str | None = None,
        expect_tip: int | None = None,
        profile: Literal["compact", "direct"] = "compact",
        anchors: bool = True,
        anchor_every: int | None = None,
        create: bool = True,
        single_writer: bool = False,
        leaf_hash: Literal["xxh3", "blake3"] | None = None,
        allow_unchanged: bool = False,
        carry: Sequence[str] = (),
        threads: int | None = None,
        storage: Mapping[str, str] | None = None,
        progress: ProgressCallback | bool | None = None,
    ) -> None:
        check(url=url, baseline=baseline, name=name, sign_key=sign_key, trust=trust, stream=stream)
        check(expect_tip=expect_tip, anchors=anchors, anchor_every=anchor_every, create=create, carry=carry)
        check(single_writer=single_writer, allow_unchanged=allow_unchanged, threads=threads, storage=storage)
        check(progress=progress)
        self._url = os.fspath(url)
        self._progress = progress
        self._has_background = False
        self._feeding: set[int] = set()
        access: _native._Access = {
            "url": self._url,
            "trust": list(trust),
            "stream": stream,
            "expect_tip": expect_tip,
            "storage": dict(storage or {}),
            "threads": threads,
        }
        publishing: _native._Publishing = {
            "baseline": baseline,
            "name": name,
            "sign_key": sign_key,
            "profile": profile,
            "anchors": anchors,
            "anchor_every": anchor_every,
            "create": create,
            "single_writer": single_writer,
            "leaf_hash": leaf_hash,
            "allow_unchanged": allow_unchanged,
            "carry": list(carry),
        }
        native: _native.Publisher = wait(
            lambda done: _native.open_publisher(access, publishing, done), as_it_is
        )
        self._native = Opened("publisher", native)

    @property
    def url(self) -> str:
        """Where the stream is."""
        return self._url

    @property
    def stream(self) -> str:
        """The id of the stream."""
        return self._opened().stream

    @property
    def baseline(self) -> Path:
        """The directory of the baseline."""
        return Path(self._opened().baseline)

    def publish(
        self,
        state: StateLike,
        *,
        label: str | None = None,
        partial: bool = False,
        removing: bool = False,
        companions: Companions | None = None,
        base: StrPath | None = None,
    ) -> Published:
        """Publishes a state as the next version.

        ``state`` is the path of a checkpoint, a mapping of names to tensors, or pairs of both, made one at a
        time: each tensor is compared while it is alive, without a copy, so that this needs the memory of one.
        With ``partial`` the tensors that are not given stay as in the version before, with ``removing`` they are
        no part of the new one; without either they are an error.

        ``label`` is a mark such as a training step: a state whose label and digest are those of the tip is
        taken for published, so that a call may be repeated; without a label any state that is the tip's is, and
        nothing is published. ``companions`` are the files beside the weights;
        without any, tensors keep those of the version before, and a checkpoint brings its own.

        ``base`` is for checkpoints on disk: the newest version as a checkpoint of yours, unaltered. The patch
        is made from it, and no copy of the model is kept or written. It is hashed, and a ``WrongBaseError``
        if it is not the newest version, down to a bit. Anchors are not added then.

        Raises:
            LostRaceError, NotAtTipError: Another publisher was there first; then ``catch_up``.
            OutcomeUnknownError: The store did not say; publishing the same again finds out.
            WrongBaseError: ``base`` is not the newest version.
            UsageError: A tensor is missing, doubled, or none that a patch can hold.
            StorageError: The store or a disk failed.
        """
        path = self._path(state, label, partial or removing, companions, base)
        if path is not None:
            return self._wait(lambda done: self._opened().publish(path, base, label, done), _published)
        feed = self._filled(state, label, _others(partial, removing), companions)
        return self._wait(feed.finish, _published)

    async def publish_async(
        self,
        state: StateLike,
        *,
        label: str | None = None,
        partial: bool = False,
        removing: bool = False,
        companions: Companions | None = None,
        base: StrPath | None = None,
    ) -> Published:
        """As ``publish``. Tensors are compared in this thread, as in ``publish_in_background``; the upload
        and the commit are awaited. Cancelling the task ends them."""
        path = self._path(state, label, partial or removing, companions, base)
        if path is not None:
            return await wait_async(lambda done: self._opened().publish(path, base, label, done), _published)
        others = _others(partial, removing)
        native = await wait_async(lambda done: self._opened().feed(label, others, done), _as_feed)
        return await wait_async(self._fill(native, state, companions).finish, _published)

    def publish_in_background(
        self,
        state: StateLike,
        *,
        label: str | None = None,
        partial: bool = False,
        removing: bool = False,
        companions: Companions | None = None,
        base: StrPath | None = None,
    ) -> Future[Published]:
        """As ``publish``, but returns once the tensors are compared and may change again; the rest, writing
        the patch, uploading and committing it, goes on in the background. A checkpoint on disk must stay as
        it is until the future is done.

        One version at a time is under way: the next call, of any kind, waits for it. Errors are in the
        future; those that nobody has seen are told on the standard error when the interpreter ends. Cancelling it
        ends the work; the version is then published or not, as if the process had died. Nothing else ends it: it
        goes on if the publisher is dropped, and ``close`` and the end of the interpreter wait for it.
        """
        path = self._path(state, label, partial or removing, companions, base)
        if path is not None:
            return self._begin(lambda done: self._opened().publish(path, base, label, done))
        return self._begin(self._filled(state, label, _others(partial, removing), companions).finish)

    def publish_sparse(self, changes: Changes, *, label: str | None = None) -> Published:
        """Publishes changes that were found elsewhere, such as on an accelerator, as the next version. What
        they do not name stays as it is.

        ``changes`` are names, indices and values: the flat indices of elements, strictly ascending, as 32 or
        64-bit integers, and their new values in the same order, of the tensor's dtype. Of a dtype that packs
        two elements in a byte, indices and values are whole bytes.

        Raises as ``publish``; also ``UsageError`` if changes do not fit the version before.
        """
        return self._wait(self._changed(changes, label).finish, _published)

    def publish_sparse_in_background(
        self, changes: Changes, *, label: str | None = None
    ) -> Future[Published]:
        """As ``publish_sparse``, but returns once the changes are taken over, as ``publish_in_background``
        does."""
        return self._begin(self._changed(changes, label).finish)

    def prepare(
        self,
        state: StateLike,
        *,
        rank: int,
        world_size: int,
        attempt: str = "",
        whole: bool = False,
        partial: bool = False,
        companions: Sequence[StrPath] = (),
    ) -> str:
        """Uploads the share of a rank of the next version, and returns the receipt: JSON, to be sent to the
        rank that calls ``commit``, by whatever means. Nothing is visible before that.

        ``state`` are the tensors that this rank, of ``world_size`` ranks, owns: each tensor has one owner,
        the same in every version. They are given as pairs or as a mapping and compared as in ``publish``. A
        rank keeps a copy of its own tensors, beside the baseline.

        The first version is made of whole files, and so is one whose tensors have other names, dtypes or
        shapes, for which every rank gives ``whole=True``. For these ``attempt`` is a text that all ranks have
        and no earlier attempt at the version had, and one rank gives ``companions``, the paths of the files
        beside the weights. With ``partial`` the rank's tensors that are not given stay as they are.

        Raises ``UsageError`` if a tensor is missing or is none of the rank's, and ``StorageError`` if the
        store or a disk failed.
        """
        share = self._share(rank, world_size, attempt, whole, partial)
        feed = self._wait(lambda done: self._opened().feed_rank(share, done), _as_feed)
        with self._fed(feed):
            for name, tensor in pairs_of(state):
                feed.add(name, tensor)
            for path in companions:
                feed.add_companion_file(path)
        return self._wait(feed.finish, str)

    def prepare_sparse(self, changes: Changes, *, rank: int, world_size: int) -> str:
        """As ``prepare``, with changes as in ``publish_sparse``: those of the tensors that this rank owns,
        all of which stay where nothing is said. Not for a first version."""
        share = self._share(rank, world_size, "", False, True)
        feed = self._wait(lambda done: self._opened().feed_rank(share, done), _as_feed)
        with self._fed(feed):
            for name, indices, values in triples_of(changes):
                feed.add_changes(name, indices, values)
        return self._wait(feed.finish, str)

    def commit(self, receipts: Sequence[str], *, label: str | None = None) -> Published:
        """Publishes what all ranks have prepared as one version: all of it, or nothing.

        Raises ``UsageError`` or ``DamagedError`` if a receipt is missing, doubled or does not fit, and
        ``LostRaceError`` or ``NotAtTipError`` if another version came first: then the ranks prepare again.
        """
        check(receipts=receipts, label=label)
        texts = list(receipts)
        return self._wait(lambda done: self._opened().commit(texts, label, done), _published)

    async def commit_async(self, receipts: Sequence[str], *, label: str | None = None) -> Published:
        """As ``commit``."""
        check(receipts=receipts, label=label)
        texts = list(receipts)
        return await wait_async(lambda done: self._opened().commit(texts, label, done), _published)

    def versions(self) -> tuple[Version, ...]:
        """All versions of the stream, from the first to the newest."""
        return wait(lambda done: self._opened().versions(done), all_of(Version))

    def latest(self) -> Version | None:
        """The newest version of the stream, whoever published it; None if there is none."""
        return wait(lambda done: self._opened().latest(done), one_or_none(Version))

    async def latest_async(self) -> Version | None:
        """As ``latest``."""
        return await wait_async(lambda done: self._opened().latest(done), one_or_none(Version))

    def catch_up(self) -> None:
        """Brings the baseline to the newest version, whoever published it, to publish on top of it."""
        self._wait(lambda done: self._opened().catch_up(done), nothing)

    async def catch_up_async(self) -> None:
        """As ``catch_up``."""
        await wait_async(lambda done: self._opened().catch_up(done), nothing)

    def settle(self) -> None:
        """Waits until what goes on in the background is done. A version is published when ``publish`` returns;
        then the baseline follows, unless the checkpoint that was published can take its place for the next
        version. The next call waits for that, too."""
        self._wait(lambda done: self._opened().settle(done), nothing)

    def add_anchor(self, *, again: bool = False) -> AnchorAdded:
        """Adds the whole checkpoint of the newest version, for newcomers and for replicas to which no path of
        patches leads any more: it mends a stream whose older objects are damaged or missing. A version that has
        one all of whose objects are there gets another only with ``again``: their contents may be damaged."""
        return self._wait(lambda done: self._opened().add_anchor(again, done), one(AnchorAdded))

    def roll_back(self, *, force: bool = False) -> RolledBack:
        """Takes back the newest versions of a signed stream, down to the first that a trusted key has signed:
        for the owner of ``sign_key``, after somebody has published without it. Then ``catch_up``. A version
        that may be the owner's, such as one whose record is damaged, is given up only with ``force``.

        Raises ``UntrustedError`` if the stream is not signed by the key.
        """
        return self._wait(lambda done: self._opened().roll_back(force, done), one(RolledBack))

    def close(self) -> None:
        """Waits for what is published in the background, whose future has its error, and ends. An interrupt ends
        the wait and nothing else: closing again waits on. Closing what is closed does nothing."""
        if self._has_background and not self._native.is_closed and not self._native.is_forked:
            from tensorpatch._background import wait_for

            wait_for(self._opened())
        self._native.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Publisher({self._url!r})"

    def _opened(self) -> _native.Publisher:
        return self._native.get()

    def _share(
        self, rank: int, world_size: int, attempt: str, whole: bool, partial: bool
    ) -> _native._Share:
        check(rank=rank, world_size=world_size, attempt=attempt, whole=whole, partial=partial)
        return {
            "rank": rank,
            "world_size": world_size,
            "whole": whole,
            "kept": partial,
            "attempt": attempt,
        }

    def _path(
        self,
        state: StateLike,
        label: str | None,
        partial: bool,
        companions: Companions | None,
        base: StrPath | None,
    ) -> StrPath | None:
        check(label=label, partial=partial, companions=companions)
        path = path_of(state)
        if path is None and base is not None:
            raise UsageError("tensors are compared with the baseline: a base is for a checkpoint", "refused")
        if path is not None and (partial or companions is not None):
            raise UsageError("a checkpoint on disk is whole, with its own files: give its tensors", "refused")
        return path

    def _filled(
        self, state: StateLike, label: str | None, others: Others, companions: Companions | None
    ) -> _native.Feed:
        feed = self._wait(lambda done: self._opened().feed(label, others, done), _as_feed)
        return self._fill(feed, state, companions)

    def _fill(self, feed: _native.Feed, state: StateLike, companions: Companions | None) -> _native.Feed:
        with self._fed(feed):
            for name, tensor in pairs_of(state):
                feed.add(name, tensor)
            for name, contents in (companions or {}).items():
                feed.add_companion(name, _contents(name, contents))
        return feed

    def _changed(self, changes: Changes, label: str | None) -> _native.Feed:
        check(label=label)
        feed = self._wait(lambda done: self._opened().feed(label, "kept", done), _as_feed)
        try:
            with self._fed(feed):
                for name, indices, values in triples_of(changes):
                    feed.add_changes(name, indices, values)
        except UsageError as error:
            if self.latest() is None:
                told = "the stream has no version yet: publish a whole state first"
                raise NotFoundError(told, "not_found") from error
            raise
        return feed

    @contextmanager
    def _fed(self, feed: _native.Feed) -> Iterator[None]:
        """Gives a version up on any error, so that the next call need not wait for the garbage collector."""
        thread = threading.get_ident()
        self._feeding.add(thread)
        try:
            yield
        except BaseException:
            feed.abandon()
            raise
        finally:
            self._feeding.discard(thread)

    def _wait(self, start: Start, convert: Callable[[Any], T]) -> T:
        native = self._opened()
        if threading.get_ident() in self._feeding:
            raise UsageError(
                "the tensors of a version may not call the publisher that takes them: it waits for their end", "refused"
            )
        return wait(start, convert, progress=self._progress, position=native.position)

    def _begin(self, start: Start) -> Future[Published]:
        from tensorpatch._background import begin_in_background

        self._has_background = True
        return begin_in_background(start, _published, self._opened(), f"a version of {self._url}")


def _others(partial: bool, removing: bool) -> Others:
    """What becomes of tensors that are not given."""
    check(partial=partial, removing=removing)
    if partial and removing:
        raise UsageError("partial keeps what is not given, and removing removes it: give one of them", "refused")
    return "kept" if partial else "removed" if removing else "refused"


def _contents(name: str, contents: bytes | StrPath) -> bytes:
    if isinstance(contents, bytes):
        return contents
    if isinstance(contents, str | os.PathLike):
        return Path(contents).read_bytes()
    raise TypeError(f"companions[{name!r}] is bytes or the path of a file, not {contents!r}")


def _as_feed(native: object) -> _native.Feed:
    assert isinstance(native, _native.Feed)
    return native
