"""Loads a checkpoint into a model by vLLM's own functions, and takes back what a load that fails leaves behind.

vLLM reloads layer by layer. It sets the tensors of every layer aside, puts empty ones in their place, keeps what it
reads until a layer is complete, and copies the result back. A load that fails in between leaves that as it is, and the
next one goes on with it: layers would get what was kept for the version that failed, or tensors that no kernel reads.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from .. import Error, UsageError

log = logging.getLogger("tensorpatch.vllm")

Form = dict[str, tuple[torch.dtype, tuple[int, ...], str]]


def load(model: Any, model_config: Any, checkpoint: Path) -> None:
    """Loads a checkpoint directory. After an error the model holds a mixture, and needs `take_back`."""
    from vllm.config import LoadConfig
    from vllm.model_executor.model_loader import reload
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    steps: Any = reload
    config = copy.copy(model_config)
    config.model, config.revision = str(checkpoint), None
    if hasattr(config, "model_weights"):
        config.model_weights = ""
    loader = DefaultModelLoader(LoadConfig(load_format="safetensors"))
    at = _Place()
    try:
        steps.initialize_layerwise_reload(model)
        model.load_weights(at.each(loader.get_all_weights(config, model)))
        steps.finalize_layerwise_reload(model, model_config)
    except Exception as error:
        raise UsageError(f"{what(error)}{at}", "refused") from error


def form_of(model: torch.nn.Module) -> Form:
    """What the tensors of a model are, apart from their values: `take_back` compares with it."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: (tensor.dtype, tuple(tensor.shape), tensor.device.type) for name, tensor in tensors}


def take_back(model: torch.nn.Module, model_config: Any, form: Form) -> bool:
    """Has vLLM forget a load that failed, and give every layer the tensors that it had, whatever they hold now.

    Returns whether the model can be loaded into again: whether its form is the one before that load.
    """
    from vllm.model_executor.model_loader import reload
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    steps: Any = reload
    infos = [get_layerwise_info(layer) for layer in model.modules()]
    try:
        for info in (info for info in infos if info.can_load()):
            if info.kernel_tensors is None:
                return False
            # A layer of which nothing was loaded gets its own tensors back at the end.
            info.loaded_weights.clear()
            info.load_numel = 0
        steps.finalize_layerwise_reload(model, model_config)
    except Exception:
        log.exception("what a failed load left could not be taken back")
        return False
    return form_of(model) == form and not any(info.can_load() for info in infos)


def what(error: BaseException) -> str:
    """What an error says; where it arose, if it says nothing, as most assertions of vLLM."""
    said = str(error).strip()
    if not said:
        frames = traceback.extract_tb(error.__traceback__)
        said = f"{frames[-1].line} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else "no reason"
    return said if isinstance(error, Error) else f"{type(error).__name__}: {said}"


class _Place:
    """Which tensor is being loaded."""

    def __init__(self) -> None:
        self._tensor: tuple[str, torch.Tensor] | None = None

    def each(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for self._tensor in weights:
            yield self._tensor
        self._tensor = None

    def __str__(self) -> str:
        if self._tensor is None:
            return ""
        name, tensor = self._tensor
        return f" (while {name} was loaded: {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)})"
