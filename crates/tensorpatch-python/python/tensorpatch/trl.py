"""TRL's asynchronous trainers over a stream: `AsyncGRPOTrainer(..., weight_transfer=WeightTransfer(...))`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from . import Published, Publisher
from .torch.names import Names, dtype_named
from .training import StatePublisher, Step, base_directory, publish_base
from .vllm.client import Server, Update

log = logging.getLogger("tensorpatch")


class WeightTransfer:
    """Publishes each weight sync of TRL to a stream, and has vLLM servers take it over.

    What changed is found on the device of the trainer and copied to the host in `send_weights`, which returns then.
    Encoding, upload, and the update of the servers happen beside the next step. One version is under way at a time:
    a sync that comes sooner waits for the one before. With `wait=True` each sync returns when the servers serve it.

    A version that cannot be published is reported, and the next one brings what it had: the training goes on. A
    server that cannot take a version over gets the next one. `destroy` raises if the final weights are not published.
    """

    def __init__(
        self,
        url: str,
        *,
        base: str | Path,
        dtype: str | torch.dtype | None = None,
        servers: str | Sequence[str] = (),
        directory: str | None = None,
        wait: bool = False,
        trust: Sequence[str] = (),
        **publisher: Any,
    ) -> None:
        """Arguments:

        * `url`: the stream.
        * `base`: the checkpoint that the servers were started with, a directory or a model on the Hub. Tensors that
          TRL does not send, because they are frozen, come from it.
        * `dtype`: what is served, such as `bfloat16`; the dtype of each tensor of `base` if nothing is said.
        * `servers`: URLs of vLLM servers to update. Without, something else follows the stream.
        * `directory`: where the hosts of the servers keep their replica.
        * `trust`: public keys, one of which must have signed what servers read.
        * the rest: options of `tensorpatch.Publisher`.
        """
        self._url = url
        self._base = base
        self._dtype = dtype_named(dtype)
        self._servers = [Server(server) for server in ([servers] if isinstance(servers, str) else servers)]
        self._directory = directory
        self._wait = wait
        self._trust = list(trust)
        self._options = publisher
        self._states: StatePublisher | None = None
        self._syncs = 0
        self.updates: list[Update] = []

    @property
    def steps(self) -> list[Step]:
        """What was published, with bytes and times; one entry for each sync."""
        return [] if self._states is None else self._states.steps

    def init_weight_transfer(self) -> None:
        """Publishes the base, and connects the servers. Called by TRL before the first sync."""
        base = base_directory(self._base)
        publisher = Publisher(self._url, **self._options)
        published, dtypes = publish_base(publisher, base, self._dtype)
        names = Names(_skeleton(base), dtypes)
        self._states = StatePublisher(publisher, names=names.convert, after=self._update)
        for server in self._servers:
            server.wait_until_ready()
            server.connect(self._url, directory=self._directory, trust=self._trust)
        self._update(published)

    def pause(self) -> None:
        """Nothing: the servers go on while the weights are compared and uploaded, and pause for the scatter alone."""

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Takes over what changed, and publishes it beside the training."""
        assert self._states is not None, "TRL calls init_weight_transfer first"
        self._syncs += 1
        self._states.publish(iterator, label=f"sync {self._syncs}")
        # The first rollouts come from the first sync, so that one is waited for.
        if self._wait or self._syncs == 1:
            self._states.wait()

    def resume(self) -> None:
        """Nothing: see `pause`."""

    def destroy(self) -> None:
        """Waits for the last version, and publishes again what could not be published."""
        if self._states is not None:
            self._states.close()

    def _update(self, published: Published) -> None:
        for server in self._servers:
            try:
                self.updates.append(server.update(published.version))
            except Exception as error:
                log.warning("%s did not take over version %s: %s", server.url, published.version, error)


def _skeleton(base: Path) -> torch.nn.Module | None:
    """The model of a checkpoint without its weights: it knows which of its tensors transformers fuses."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:  # a class of the user's own: its names are taken as they are
        return None
    with torch.device("meta"):
        model: torch.nn.Module = kind(config)
    return model
