"""The weight-transfer engine that runs in each worker of vLLM."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .. import digest
from ..host import Fetched, HostReplica, read_changes
from .probe import facts_of, scatter_is_exact
from .routing import Decision, Facts, Route, at_start, for_version

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


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """What `/update_weights` carries."""

    version: int


@dataclass(frozen=True)
class Status:
    """What a worker says of itself. `served` is `None` if it cannot be known: then nothing may be generated."""

    rank: int
    served: int | None
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
        self._thread: threading.Thread | None = None
        self._status = Status(rank=self.parallel_config.rank, served=None)
        self._saying = threading.Lock()

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Opens the stream, and finds which version the model was loaded from and which way updates can take."""
        directory = Path(init_info.directory) if init_info.directory else default_directory(init_info.url)
        self._host = HostReplica(init_info.url, directory, trust=init_info.trust)
        self._facts = facts_of(self.model, self.model_config, self.device, patching is not None)
        self._say(served=None, fetched=None, error=None)
        newest = self._host.latest()
        if newest is not None:
            self.fetch(newest)
            self._recognise(newest)

    def _recognise(self, version: int) -> None:
        """Finds out whether the model was loaded from this version, and whether scattering into it is exact."""
        assert self._host is not None
        assert self._facts is not None
        loaded = Path(self.model_config.model)
        # A checkpoint that this engine moves may have been another version when the model was loaded from it.
        moved = loaded.resolve() == self._host.checkpoint.resolve()
        if not moved and loaded.is_dir() and digest(loaded) == self._host.digest:
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
        self._say(served=None)
        with self._host.reading(version) as checkpoint:
            exact = scatter_is_exact(self.model, checkpoint, self._scatter_all)
        self._facts = replace(self._facts, repacked=not exact)
        if not exact:
            self._reload(version)
        self._say(served=version)

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
            try:
                self.fetch(version)
                self._say(fetching=None)
            except Exception as error:
                self._say(fetching=None, error=f"version {version} was not fetched: {error}")

        self._say(fetching=version, error=None)
        self._thread = threading.Thread(target=run, name="tensorpatch-fetch", daemon=True)
        self._thread.start()

    def start_weight_update(self) -> None:
        """Nothing: a scatter needs no preparation, and a reload prepares itself."""

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Brings a version into the model, by a scatter or a reload. After a failed scatter it reloads."""
        if self._thread is not None:
            self._thread.join()
        fetched = self._fetched
        if fetched is None or fetched.version != update_info.version:
            fetched = self.fetch(update_info.version)
        started = time.perf_counter()
        if self._status.served == fetched.version:
            self._say(route="none", reason="it was served already", apply_seconds=0.0)
            return
        decision = self._decide(fetched)
        self._say(served=None)
        if decision.route is Route.SCATTER:
            assert fetched.changes is not None
            try:
                self._scatter(fetched.changes)
            except Exception as error:
                log.warning("the changes could not be scattered, reloading: %s", error)
                decision = Decision(Route.RELOAD, f"the scatter failed: {error}")
        if decision.route is Route.RELOAD:
            try:
                self._reload(fetched.version)
            except Exception as error:
                self._say(route=decision.route.value, error=f"version {fetched.version} was not loaded: {error}")
                raise
        self._say(
            served=fetched.version,
            error=None,
            route=decision.route.value,
            reason=decision.reason,
            apply_seconds=time.perf_counter() - started,
        )
        self._probe()
        log.info("version %s by %s %s", fetched.version, decision.route.value, decision.reason)

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
        from vllm.config import LoadConfig
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
        from vllm.model_executor.model_loader import reload

        model: Any = self.model
        steps: Any = reload
        assert self._host is not None
        with self._host.reading(version) as checkpoint:
            config = copy.copy(self.model_config)
            config.model, config.revision = str(checkpoint), None
            if hasattr(config, "model_weights"):
                config.model_weights = ""
            loader = DefaultModelLoader(LoadConfig(load_format="safetensors"))
            steps.initialize_layerwise_reload(model)
            model.load_weights(loader.get_all_weights(config, model))
            steps.finalize_layerwise_reload(model, self.model_config)

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

    def _say(self, **changes: Any) -> None:
        # The fetch is on another thread.
        with self._saying:
            self._status = replace(self._status, **changes)


def default_directory(url: str) -> Path:
    """Where the replica of a stream is if nothing is said: the same for all ranks of a user on a host."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tensorpatch" / "hosts" / hashlib.sha256(url.encode()).hexdigest()[:16]


__all__ = ["Engine", "InitInfo", "Status", "UpdateInfo"]
