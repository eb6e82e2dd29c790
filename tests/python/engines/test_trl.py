"""`WeightTransfer`, called as TRL calls it, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tensorpatch import Replica
from tensorpatch.torch.changes import bits
from tensorpatch.trl import WeightTransfer


def sync(transfer: WeightTransfer, model: torch.nn.Module) -> None:
    transfer.pause()
    transfer.send_weights((name, p.detach()) for name, p in model.named_parameters() if p.requires_grad)
    transfer.resume()


def move(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += (torch.rand_like(parameter) < 0.01) / 8


def served(stream: str, directory: Path) -> dict[str, torch.Tensor]:
    Replica(stream, directory).pull()
    return load_file(directory / "model.safetensors")


def test_master_weights_are_published_as_served_and_frozen_ones_come_from_the_base(
    model: Path, stream: str, tmp_path: Path
) -> None:
    trained = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trained.model.embed_tokens.requires_grad_(False)
    transfer = WeightTransfer(stream, base=model, baseline=tmp_path / "baseline")
    transfer.init_weight_transfer()
    for _ in range(3):
        move(trained)
        sync(transfer, trained)
    transfer.destroy()
    assert [step.label for step in transfer.steps] == ["sync 1", "sync 2", "sync 3"]
    found = served(stream, tmp_path / "replica")
    expected = {name: p.detach().bfloat16() for name, p in trained.named_parameters()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(bits(found[name]), bits(expected[name])) for name in expected)
    assert (tmp_path / "replica" / "tokenizer.json").exists()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_fused_experts_get_the_names_of_the_file(stream: str, tmp_path: Path, dtype: str | None) -> None:
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    )
    base, final = tmp_path / "base", tmp_path / "final"
    trained = Qwen3MoeForCausalLM(config)
    trained.save_pretrained(base)
    transfer = WeightTransfer(stream, base=base, dtype=dtype, baseline=tmp_path / "baseline")
    transfer.init_weight_transfer()
    move(trained)
    sync(transfer, trained)
    transfer.destroy()
    trained.to(torch.bfloat16 if dtype else torch.float32).save_pretrained(final)
    found, expected = served(stream, tmp_path / "replica"), load_file(final / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(bits(found[name]), bits(expected[name])) for name in expected)
