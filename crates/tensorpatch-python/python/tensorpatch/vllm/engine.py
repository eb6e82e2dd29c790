"""The weight-transfer engine that runs in each worker of vLLM."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .. import UsageError, digest
from ..host import Fetched, HostReplica, read_changes
from ..torch.names import Specs, specs_of
from .probe import facts_of, scatter_is_exact
from .reload import form_of, load, take_back, what
from .routing import Decision, Facts, Route, at_start, for_version, misfit

patching: Any
try:
    from vllm.model_executor.model_loader import checkpoint_weight_patch as patching
except ImportError:  # vLLM before 0.29
    patching = None

log = logging.getLogger("tensorpatch.vllm")


@dataclass
class InitInfo(WeightTransferInitInfo):
    """What `/init_weight_transfer_engine` carries."""

    url: str
    # On the host of the worker, shared by its ranks; by default one per stream under the user's cache.
    directory: str | None = None
    trust: list[str] = field(default_factory=list)
    # Errors are for the status and not raised: when a worker raises, vLLM loses count of what the others answer.
    quiet: bool = False


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """What `/update_weights` carries."""

    version: int
    quiet: bool = False  # as in `InitInfo`


@dataclass(frozen=True)
class Status:
    """What a worker says of itself. `served` is `None` if it is not known which version the weights are of."""

    rank: int
    served: int | None
    sound: bool = True  # `False`: the weights may be a mixture of versions, and nothing may be generated
    fetched: int | None = None
    fetching: int | None = None
    error: str | None = None
    route: str | None = None
    reason: str = ""
    fetch_seconds: float = 0.0
    apply_seconds: float = 0.0
    downloaded: int = 0


class Engine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Fetches versions of a stream, and brings them into the model while the server is paused."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host: HostReplica | None = None
        self._facts: Facts | None = None
        self._fetched: Fetched | None = None
        self._started_from: Specs | None = None
        self._known: Specs | None = None  # the tensors of the version that was loaded last
        self._touched = False  # since vLLM loaded the model
        self._unproven = False  # since a load failed
        self._lost: str | None = None  # why nothing can be loaded any more
        self._thread: threading.Thread | None = None
        self._status = Status(rank=self.parallel_config.rank, served=None)
        self._saying = threading.Lock()

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Opens the stream, and finds which version the model was loaded from and which way updates can take."""
        with self._telling(init_info.quiet):
            directory = Path(init_info.directory) if init_info.directory else default_directory(init_info.url)
            self._host = HostReplica(init_info.url, directory, trust=init_info.trust)
            self._facts = facts_of(self.model, self.model_config, self.device, patching is not None)
            self._say(served=None, fetched=None, error=None)
            if self._started_from is None:
                self._started_from = self._specs_at_start()
            newest = self._host.latest()
            if newest is not None:
                self.fetch(newest)
                self._recognise(newest)

    def _specs_at_start(self) -> Specs:
        """Of what vLLM loaded the model from; empty if that cannot be known."""
        loaded = Path(self.model_config.model)
        try:
            if not loaded.is_dir():
                from huggingface_hub import snapshot_download

                revision = self.model_config.revision
                loaded = Path(snapshot_download(str(loaded), revision=revision, local_files_only=True))
            return {} if self._moves(loaded) else specs_of(loaded)
        except (OSError, ValueError, UsageError) as error:
            log.info("it is not known which tensors the model was loaded from: %s", error)
            return {}

    def _moves(self, loaded: Path) -> bool:
        # A checkpoint that this engine moves may have been another version when the model was loaded from it.
        assert self._host is not None
        return loaded.resolve() == self._host.checkpoint.resolve()

    def _recognise(self, version: int) -> None:
        """Finds out whether the model was loaded from this version, and whether scattering into it is exact."""
        assert self._host is not None
        assert self._fetched is not None
        loaded = Path(self.model_config.model)
        if self._touched or self._moves(loaded) or not loaded.is_dir():
            return
        if digest(loaded) == self._host.digest:
            self._known = self._fetched.specs
            self._say(served=version)
            self._probe()

    def _probe(self) -> None:
        """Scatters values that are there already: if a weight changes, its layout is not that of the checkpoint."""
        assert self._host is not None
        assert self._facts is not None
        if at_start(self._facts).route is Route.RELOAD or self._facts.repacked is not None:
            return
        version = self._status.served
        assert version is not None
        touched = self._touched
        self._touch()
        with self._host.reading(version) as checkpoint:
            exact = scatter_is_exact(self.model, checkpoint, self._scatter_all)
        self._facts = replace(self._facts, repacked=not exact)
        if exact:
            self._touched = touched
        else:
            self._reload(version)
        self._say(served=version, sound=True)

    def fetch(self, version: int) -> Fetched:
        """Brings a version to the disk of this host and verifies it. The model stays as it is."""
        assert self._host is not None, "init_weight_transfer_engine comes first"
        started = time.perf_counter()
        # An engine that always reloads needs no changes written out.
        scatters = self._facts is not None and at_start(self._facts).route is Route.SCATTER
        fetched = self._host.fetch(version, self._status.served, changes=scatters)
        self._fetched = fetched
        self._say(
            fetched=version,
            fetch_seconds=time.perf_counter() - started,
            downloaded=fetched.downloaded,
        )
        return fetched

    def fetch_in_background(self, version: int) -> None:
        """Starts `fetch` beside the generation; `status` tells when it is done, or why it failed."""
        if self._status.fetching == version:
            return
        if self._thread is not None:
            self._thread.join()

        def run() -> None:
            step = "fetched"
            try:
                fetched = self.fetch(version)
                step = "loaded"
                self._check(fetched)
                self._say(fetching=None)
            except Exception as error:
                told = f"version {version} was not {step}: {what(error)}"
                log.warning("%s", told)
                self._say(fetching=None, error=told)

        self._say(fetching=version, error=None)
        self._thread = threading.Thread(target=run, name="tensorpatch-fetch", daemon=True)
        self._thread.start()

    def _check(self, fetched: Fetched) -> None:
        """Refuses what cannot be loaded before anything of it is: a load that fails leaves nothing to generate with."""
        if self._lost is not None:
            raise UsageError(self._lost, "refused")
        known = self._known
        if known is None:
            # The checkpoint that vLLM was started with may have tensors that nobody publishes.
            known = {name: spec for name, spec in (self._started_from or {}).items() if name in fetched.specs}
        if (why := misfit(known, fetched.specs)) is not None:
            raise UsageError(f"it does not fit the model: {why}", "refused")

    def start_weight_update(self) -> None:
        """Nothing: a scatter needs no preparation, and a reload prepares itself."""

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Brings a version into the model, by a scatter or a reload. After a failed scatter it reloads."""
        with self._telling(update_info.quiet, f"version {update_info.version} was not loaded: "):
            self._take(update_info.version)

    def _take(self, version: int) -> None:
        if self._thread is not None:
            self._thread.join()
        fetched = self._fetched
        if fetched is None or fetched.version != version:
            fetched = self.fetch(version)
        started = time.perf_counter()
        if self._status.served == version:
            self._say(route="none", reason="it was served already", apply_seconds=0.0, error=None)
            return
        self._check(fetched)
        decision = self._decide(fetched)
        self._touch()
        if decision.route is Route.SCATTER:
            assert fetched.changes is not None
            try:
                self._scatter(fetched.changes)
            except Exception as error:
                log.warning("the changes could not be scattered, reloading: %s", error)
                decision = Decision(Route.RELOAD, f"the scatter failed: {what(error)}")
        self._say(route=decision.route.value, reason=decision.reason)
        if decision.route is Route.RELOAD:
            self._reload(version)
        self._known = fetched.specs
        self._say(served=version, sound=True, error=None, apply_seconds=time.perf_counter() - started)
        self._probe()
        log.info("version %s by %s %s", version, decision.route.value, decision.reason)

    def _touch(self) -> None:
        """From here on the weights are those of no version, until another is loaded whole."""
        self._touched = True
        self._say(served=None, sound=False)

    def _decide(self, fetched: Fetched) -> Decision:
        assert self._facts is not None
        contents = fetched.contents if fetched.changes is not None else None
        return for_version(at_start(self._facts), self._facts, contents, self._status.served)

    def _scatter(self, changes: Path) -> None:
        self._scatter_all(
            (c.name, c.shape, c.dtype, c.values, c.indices) for c in read_changes(changes, self.device)
        )

    def _scatter_all(self, changes: Any) -> None:
        # The codec writes each index once, in ascending order: sorting them again would lengthen the pause.
        patches = (patching.CheckpointWeightPatch(*change) for change in changes)
        patching.load_checkpoint_weight_patches(self.model, patches, validate_unique_indices=False)

    def _reload(self, version: int) -> None:
        assert self._host is not None
        with self._host.reading(version) as checkpoint:
            form = form_of(self.model)
            try:
                load(self.model, self.model_config, checkpoint)
            except BaseException:
                self._unproven = True
                if not take_back(self.model, self.model_config, form):
                    self._lost = f"version {version} failed while it was loaded, and vLLM cannot load over what is left"
                    self._lost += ": restart the server"
                raise
            if self._unproven:
                self._prove(checkpoint)

    def _prove(self, checkpoint: Path) -> None:
        """After a load that failed: whether the model has what the checkpoint has, where its weights can be read."""
        assert self._facts is not None
        if self._facts.repacked is False and not scatter_is_exact(self.model, checkpoint, self._scatter_all):
            self._lost = "after a load that failed, the next one left other weights than its checkpoint has"
            self._lost += ": restart the server"
            raise UsageError(self._lost, "refused")
        self._unproven = False

    def finish_weight_update(self) -> None:
        """Nothing: `receive_weights` leaves a whole version, or raises."""

    def shutdown(self) -> None:
        """Lets go of the stream."""
        if self._thread is not None:
            self._thread.join()
        self._host = None

    @staticmethod
    def trainer_send_weights(*args: Any, **kwargs: Any) -> None:
        """Abstract in vLLM before 0.28: the trainer writes to the stream and not to the engine."""
        raise NotImplementedError("publish to the stream instead")

    def status(self) -> dict[str, Any]:
        """What this worker serves, has fetched, and took for it."""
        return asdict(self._status)

    @contextmanager
    def _telling(self, quiet: bool, before: str = "") -> Iterator[None]:
        """Keeps an error in the status, with its reason: what vLLM tells of an error of a worker may be nothing."""
        try:
            yield
        except Exception as error:
            told = f"{before}{what(error)}"
            if self._lost is not None and self._lost not in told:
                told = f"{told}; {self._lost}"
            log.exception("%s", told)
            self._say(error=told)
            if not quiet:
                raise UsageError(told, "refused") from error

    def _say(self, **changes: Any) -> None:
        # The fetch is on another thread.
        with self._saying:
            self._status = replace(self._status, **changes)


def default_directory(url: str) -> Path:
    """Where the replica of a stream is if nothing is said: the same for all ranks of a user on a host."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tensorpatch" / "hosts" / hashlib.sha256(url.encode()).hexdigest()[:16]


__all__ = ["Engine", "InitInfo", "Status", "UpdateInfo"]
