"""What a worker of vLLM answers to `collective_rpc`, with `--worker-extension-cls tensorpatch.vllm.worker.Worker`.

Both calls return at once: vLLM generates nothing while a call runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine


class Worker:
    """Mixed into the worker class of vLLM."""

    weight_transfer_engine: Engine
    _weight_update_active: bool

    def tensorpatch_fetch(self, version: str) -> None:
        """Starts to fetch and verify a version, beside the generation. HTTP carries text only."""
        self.weight_transfer_engine.fetch_in_background(int(version))

    def tensorpatch_status(self) -> dict[str, Any]:
        """What the worker serves and has fetched, as `tensorpatch.vllm.engine.Status`."""
        # A client that was killed in the middle leaves its update open, and vLLM begins no other.
        return {**self.weight_transfer_engine.status(), "updating": self._weight_update_active}
