"""Following a stream."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from tensorpatch import _native
from tensorpatch._checks import check
from tensorpatch._jobs import Done, Opened, Start, as_it_is, begin, nothing, wait, wait_async
from tensorpatch._reports import Pulled, Verified, Version, all_of, one, one_or_none
from tensorpatch._types import ProgressCallback, StrPath
from tensorpatch.exceptions import CancelledError, UsageError

T = TypeVar("T")

_pulled = one(Pulled)
_pulled_or_none = one_or_none(Pulled)


class Prepared:
    """A version that is downloaded and verified, to be activated by its replica::

        with replica.prepare() as prepared:
            replica.activate(prepared)

    It keeps the replica's directory locked until it is activated or closed, at the latest by the end of the ``with``
    block, by ``Replica.close`` or by the garbage collector. Until then no other call that needs the directory is
    possible: those of other threads wait, those of the thread that prepared it are a ``UsageError``.
    """

    def __init__(self, native: _native.Prepared) -> None:
        self._native = native
        self._is_open = True
        self._holder: int | None = None

    @property
    def version(self) -> int:
        """The number of the version."""
        return self._native.version

    @property
    def digest(self) -> str:
        """The digest of the state that activation brings."""
        return self._native.digest

    @property
    def needed(self) -> bool:
        """Whether activation changes anything."""
        return self._native.needed

    @property
    def base_version(self) -> int | None:
        """The version that the directory holds; None if it holds none."""
        return self._native.base_version

    @property
    def plan_bytes(self) -> int:
        """Bytes of the patches or files that lead to the version."""
        return self._native.plan_bytes

    @property
    def downloaded_bytes(self) -> int:
        """Bytes fetched, without what was there already."""
        return self._native.downloaded_bytes

    def close(self) -> None:
        """Lets go of the directory, which stays as it is. Closing twice does nothing."""
        self._native.close()
        self._is_open = False

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Prepared(version={self.version})"


class Replica:
    """A local checkpoint directory that follows the stream at ``url``.

    The directory has an ordinary Hugging Face checkpoint and one hidden folder for what is known about it.
    Several processes may share it: a lock makes one do the work, and the others find it done. A process that
    was forked must open its own.

    Args:
        url: As for ``Publisher``. The stream must exist.
        directory: The directory; it is created when the first version is pulled.
        mode: ``in_place`` alters bytes in the files, guarded by a journal; ``beside`` writes complete new
            files and renames them, so that the old version can be read until the switch.
        durability: ``synced`` waits until files are on disk; with ``none`` they are there some time later. A
            power cut before that may leave them torn, which the next pull finds out and repairs.
        inverse: Whether the patch that leads back to the version before is kept, for going back quickly.
        replace: Whether weights and other files in the directory that are of no version of the stream may be
            replaced.
        allow_code: Whether a version may bring files that can run code when they are loaded: pickles such as
            ``.bin``, ``.pt`` and ``.pkl``.
        verify: When a pull reads all of what is held, and repairs what was altered: always, never, or by
            default the weights, with ``trust``, where there is nothing newer. What a patch is applied to is
            always hashed.
        trust: Public keys, of 64 hexadecimal digits. Records that none of these has signed are refused.
        stream: The id that the stream must have. A key may have signed several.
        expect_tip: A version that is known to exist. A stream that does not show it is a ``ConflictError``.
        lease: A name that no other replica has, under which collectors are told what this one holds.
        threads: Threads that decode and hash; one for each core by default.
        storage: Settings of the transfer by name; see ``tensorpatch pull --help``.
        progress: As for ``Publisher``.

    Raises:
        NotFoundError: There is no stream.
        StorageError: The store failed.
        UntrustedError: The stream is not signed by a trusted key.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        directory: StrPath,
        *,
        mode: Literal["in_place", "beside"] = "in_place",
        durability: Literal["synced", "none"] = "synced",
        inverse: bool = True,
        replace: bool = False,
        allow_code: bool = False,
        verify: bool | None = None,
        trust: Sequence[str] = (),
        stream: str | None = None,
        expect_tip: int | None = None,
        lease: str | None = None,
        threads: int | None = None,
        storage: Mapping[str, str] | None = None,
        progress: ProgressCallback | bool | None = None,
    ) -> None:
        check(url=url, directory=directory, inverse=inverse, replace=replace, allow_code=allow_code, verify=verify)
        check(trust=trust, stream=stream, expect_tip=expect_tip, lease=lease, threads=threads, storage=storage)
        check(progress=progress)
        self._url = os.fspath(url)
        self._directory = Path(directory)
        self._progress = progress
        self._access: _native._Access = {
            "url": self._url,
            "trust": list(trust),
            "stream": stream,
            "expect_tip": expect_tip,
            "storage": dict(storage or {}),
            "threads": threads,
        }
        self._following: _native._Following = {
            "directory": self._directory,
            "mode": mode,
            "durability": durability,
            "inverse": inverse,
            "replace": replace,
            "allow_code": allow_code,
            "verify": verify,
            "lease": lease,
            "poll": None,
        }
        self._prepared: weakref.ref[Prepared] | None = None
        self._follows: set[_native.Job] = set()
        self._native = Opened("replica", self._open(self._following))

    @property
    def url(self) -> str:
        """Where the stream is."""
        return self._url

    @property
    def stream(self) -> str:
        """The id of the stream."""
        return self._opened().stream

    @property
    def directory(self) -> Path:
        """The directory of the checkpoint."""
        return self._directory

    @property
    def version(self) -> int | None:
        """The version that the directory holds, once an interrupted step is finished; None if it holds none.
        Waits while another call or process is at work on the directory."""
        held = self._held()
        return None if held is None else int(held["version"])

    @property
    def digest(self) -> str | None:
        """The digest of the state that the directory holds, as ``version``."""
        held = self._held()
        return None if held is None else str(held["digest"])

    def latest(self) -> Version | None:
        """The newest version of the stream; None if there is none. The directory is not looked at."""
        return wait(lambda done: self._opened().latest(done), one_or_none(Version))

    async def latest_async(self) -> Version | None:
        """As ``latest``."""
        return await wait_async(lambda done: self._opened().latest(done), one_or_none(Version))

    def versions(self) -> tuple[Version, ...]:
        """All versions of the stream, from the first to the newest."""
        return wait(lambda done: self._opened().versions(done), all_of(Version))

    def verify(self) -> Verified:
        """Reads every byte of the directory and compares it with the version that it holds. Alters nothing:
        ``pull`` with ``verify=True`` repairs.

        Raises ``LocalStateError`` if an update was interrupted, and ``UsageError`` if it holds no version.
        """
        return self._wait(lambda done: self._opened().verify(done), one(Verified))

    def pull(self, version: int | None = None, *, timeout: float | None = None) -> Pulled:
        """Brings the directory to ``version``, ahead or back, or to the newest: ``prepare`` and ``activate``.

        Raises:
            NotFoundError: There is no such version, or none at all.
            DamagedError: The stream is damaged, or there is no way to the version.
            ConflictError: The directory belongs to another stream.
            UsageError: It has weights of no version of the stream, and ``replace`` does not allow to replace them.
            StorageError: The store or a disk failed.
            TimeoutError: It was not done after ``timeout`` seconds. The next call goes on with what was
                downloaded.
        """
        check(version=version, timeout=timeout)
        return self._wait(lambda done: self._opened().pull(version, done), _pulled, timeout)

    async def pull_async(self, version: int | None = None) -> Pulled:
        """As ``pull``. Cancelling the task ends it; the next call goes on with what was downloaded."""
        check(version=version)
        return await wait_async(lambda done: self._opened().pull(version, done), _pulled)

    def prepare(self, version: int | None = None, *, timeout: float | None = None) -> Prepared:
        """Downloads and verifies ``version``, or the newest, while the directory stays as it is.

        The directory is locked until the result is activated or closed: use ``with replica.prepare() as prepared``.
        Raises as ``pull``.
        """
        check(version=version, timeout=timeout)
        return self._held_by_caller(
            self._wait(lambda done: self._opened().prepare(version, done), Prepared, timeout)
        )

    async def prepare_async(self, version: int | None = None) -> Prepared:
        """As ``prepare``."""
        check(version=version)
        return self._held_by_caller(
            await wait_async(lambda done: self._opened().prepare(version, done), Prepared)
        )

    def activate(self, prepared: Prepared) -> Pulled:
        """Lets the directory become the prepared version. Short, and for the time in which an engine pauses:
        it alters bytes or renames files, and fetches nothing.

        Raises ``StorageError`` if the files cannot be altered. What was begun is then finished or undone by
        the next call of any method.
        """
        native = self._opened()
        start = _activation(native, prepared)
        return wait(start, _pulled, progress=self._progress, position=native.position)

    async def activate_async(self, prepared: Prepared) -> Pulled:
        """As ``activate``."""
        return await wait_async(_activation(self._opened(), prepared), _pulled)

    def follow(
        self, *, poll: float | None = None, stop: threading.Event | None = None
    ) -> Iterator[Pulled]:
        """Pulls the newest version, and then, whenever there is a newer one, the newest.

        The first item is what is held at the start, pulled just now or before. Versions that come while another one
        is pulled or handled may be skipped, as all but the newest of them are: ``pull(version)`` brings each one.
        The stream is asked every ``poll`` seconds, one by default; failures of the store that may pass, such as a
        directory that is not there for the time being, are waited out without a word. It ends when ``stop`` is set,
        within a tenth of a second, when the replica is closed, or with the first error that waiting does not mend.
        """
        import concurrent.futures

        check(poll=poll, stop=stop)
        versions = self._opened_with(poll).follow()
        while not self._native.is_closed and (stop is None or not stop.is_set()):
            self._refuse_to_wait_for_caller()
            with self._ended_by_close(versions) as start:
                future = begin(start, _pulled_or_none)
                try:
                    while True:
                        try:
                            pulled = future.result(None if stop is None else 0.1)
                            break
                        except concurrent.futures.TimeoutError:
                            if not future.done() and stop is not None and stop.is_set():
                                return
                except CancelledError:
                    if self._native.is_closed:
                        return
                    raise
                finally:
                    future.cancel()
            if pulled is None:
                return
            yield pulled

    async def follow_async(self, *, poll: float | None = None) -> AsyncIterator[Pulled]:
        """As ``follow``. Cancelling the task ends it; no version is lost."""
        check(poll=poll)
        native = await self._opened_with_async(poll)
        versions = native.follow()
        while not self._native.is_closed:
            with self._ended_by_close(versions) as start:
                try:
                    pulled = await wait_async(start, _pulled_or_none)
                except CancelledError:
                    if self._native.is_closed:
                        return
                    raise
            if pulled is None:
                return
            yield pulled

    def release(self) -> None:
        """Gives up the lease, so that collectors no longer wait for this replica."""
        wait(lambda done: self._opened().release(done), nothing)

    def close(self) -> None:
        """Ends, and so do the iterators of ``follow``; a version that is prepared is closed. The directory keeps what
        it holds. Closing twice does nothing."""
        self._native.close()
        for job in list(self._follows):
            job.cancel()
        prepared = self._open_prepared()
        if prepared is not None and not self._native.is_forked:
            prepared.close()

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Replica({self._url!r}, {os.fspath(self._directory)!r})"

    def _opened(self) -> _native.Replica:
        return self._native.get()

    def _open(self, following: _native._Following) -> _native.Replica:
        native: _native.Replica = wait(
            lambda done: _native.open_replica(self._access, following, done), as_it_is
        )
        return native

    def _opened_with(self, poll: float | None) -> _native.Replica:
        opened = self._opened()
        return opened if poll is None else self._open({**self._following, "poll": poll})

    async def _opened_with_async(self, poll: float | None) -> _native.Replica:
        opened = self._opened()
        if poll is None:
            return opened
        following: _native._Following = {**self._following, "poll": poll}
        native: _native.Replica = await wait_async(
            lambda done: _native.open_replica(self._access, following, done), as_it_is
        )
        return native

    def _open_prepared(self) -> Prepared | None:
        prepared = None if self._prepared is None else self._prepared()
        return prepared if prepared is not None and prepared._is_open else None

    def _held_by_caller(self, prepared: Prepared) -> Prepared:
        prepared._holder = threading.get_ident()
        self._prepared = weakref.ref(prepared)
        return prepared

    def _refuse_to_wait_for_caller(self) -> None:
        """Raises if the directory is locked by the thread that would wait for it."""
        prepared = self._open_prepared()
        if prepared is not None and prepared._holder == threading.get_ident():
            raise UsageError(
                f"{self.directory} is locked by {prepared!r}, which this thread has: activate or close it first",
                "refused",
            )

    @contextmanager
    def _ended_by_close(self, versions: _native.Versions) -> Iterator[Start]:
        """What waits for the next version until the replica is closed."""
        jobs: list[_native.Job] = []

        def start(done: Done) -> _native.Job:
            job = versions.next(done)
            jobs.append(job)
            self._follows.add(job)
            # It may have been closed since it was looked at.
            if self._native.is_closed:
                job.cancel()
            return job

        try:
            yield start
        finally:
            self._follows.difference_update(jobs)

    def _held(self) -> dict[str, Any] | None:
        import json

        self._refuse_to_wait_for_caller()
        held: dict[str, Any] | None = json.loads(wait(lambda done: self._opened().held(done), str))
        return held

    def _wait(
        self, start: Callable[[Any], _native.Job], convert: Callable[[Any], T], timeout: float | None = None
    ) -> T:
        native = self._opened()
        self._refuse_to_wait_for_caller()
        return wait(start, convert, progress=self._progress, position=native.position, timeout=timeout)


def _activation(native: _native.Replica, prepared: Prepared) -> Start:
    """What activates a version, which is then no longer open, whatever comes of it."""

    def start(done: Done) -> _native.Job:
        job = native.activate(prepared._native, done)
        prepared._is_open = False
        return job

    return start
