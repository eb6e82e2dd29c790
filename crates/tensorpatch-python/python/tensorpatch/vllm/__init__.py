"""vLLM that follows a stream, by its own extension points: `--weight-transfer-config '{"backend":"tensorpatch"}'`.

Installing tensorpatch registers the backend (entry point `vllm.general_plugins`) in every process of vLLM. Start the
server with `--worker-extension-cls tensorpatch.vllm.worker.Worker` too: then a version is fetched and verified while
the server generates, and the pause is for the scatter alone. `Server` drives a server over HTTP, and
`python -m tensorpatch.vllm` follows a stream with it.
"""

from .client import Server, Update

BACKEND = "tensorpatch"

__all__ = ["BACKEND", "Server", "Update", "register"]


def register() -> None:
    """Makes the backend known to vLLM. Called by vLLM in each of its processes; more than once does no harm."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory as Factory

    if BACKEND not in Factory._registry:
        Factory.register_engine(BACKEND, "tensorpatch.vllm.engine", "Engine")
