"""Whether an engine keeps its weights where the checkpoint has them: found by scattering what is there already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tensorpatch.vllm.probe import facts_of, scatter_is_exact


class Layer(torch.nn.Module):
    """One weight, which a kernel may keep in another order."""

    def __init__(self, weight: torch.Tensor, order: torch.Tensor) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(weight.reshape(-1)[order].view(weight.shape).clone(), requires_grad=False)

    def scatter(self, patches: Iterable[tuple[Any, ...]]) -> None:
        """As vLLM does: it takes the order of the checkpoint for that of the parameter."""
        for _, _, _, values, places in patches:
            self.w.view(-1)[places] = values


@pytest.fixture
def checkpoint(tmp_path: Path) -> torch.Tensor:
    weight = torch.randn(64, 64).bfloat16()
    weight[0, 0] = float("nan")
    save_file({"w": weight, "count": torch.arange(3)}, tmp_path / "model.safetensors")
    return weight


def test_weights_in_the_order_of_the_checkpoint_keep_their_bits(checkpoint: torch.Tensor, tmp_path: Path) -> None:
    layer = Layer(checkpoint, torch.arange(checkpoint.numel()))
    assert scatter_is_exact(layer, tmp_path, layer.scatter)


def test_weights_in_another_order_of_the_same_shape_are_noticed(checkpoint: torch.Tensor, tmp_path: Path) -> None:
    layer = Layer(checkpoint, torch.randperm(checkpoint.numel()))
    assert not scatter_is_exact(layer, tmp_path, layer.scatter)


def test_parameters_that_a_kernel_emptied_are_counted() -> None:
    class Config:
        quantization = None

    layer = Layer(torch.zeros(4), torch.arange(4))
    assert facts_of(layer, Config, torch.device("cpu"), True).empty_parameters == 0
    layer.w = torch.nn.Parameter(torch.empty(0))
    facts = facts_of(layer, Config, torch.device("cpu"), True)
    assert facts.empty_parameters == 1
    assert facts.repacked is None
