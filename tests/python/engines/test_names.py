"""Names and tensors of a model, against the file that transformers writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tensorpatch import UsageError
from tensorpatch.torch import state_of
from tensorpatch.torch.changes import bits
from tensorpatch.torch.names import dtypes_of, plain_name

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def same_as_file(model: torch.nn.Module, directory: Path) -> None:
    model.save_pretrained(directory)
    file = load_file(directory / "model.safetensors")
    walked = list(state_of(model))
    assert sorted(name for name, _ in walked) == sorted(file)
    for name, tensor in walked:
        assert tensor.dtype == file[name].dtype
        assert torch.equal(bits(tensor), bits(file[name])), name


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_is_walked_as_its_file_with_tied_weights_once(tmp_path: Path, tied: bool) -> None:
    same_as_file(Qwen3ForCausalLM(Qwen3Config(**SMALL, tie_word_embeddings=tied)).bfloat16(), tmp_path)


def test_fused_experts_are_walked_as_the_file_has_them(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    model = Qwen3MoeForCausalLM(config).bfloat16()
    assert any(name.endswith("experts.gate_up_proj") for name, _ in model.named_parameters())
    assert any(name.endswith("experts.3.up_proj.weight") for name, _ in state_of(model))
    same_as_file(model, tmp_path)


def test_frozen_parameters_and_persistent_buffers_are_walked(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    names = [name for name, _ in state_of(model)]
    assert "0.weight" in names
    assert "1.running_mean" in names


def test_a_cast_changes_floats_alone() -> None:
    model = torch.nn.BatchNorm1d(2)
    found = dict(state_of(model, dtype=torch.bfloat16))
    assert found["weight"].dtype is torch.bfloat16
    assert found["num_batches_tracked"].dtype is torch.int64
    found = dict(state_of(model, dtype={"weight": torch.float16}))
    assert found["weight"].dtype is torch.float16
    assert found["bias"].dtype is torch.float32


def test_wrappers_of_training_are_not_in_the_names() -> None:
    assert plain_name("module.model.layers.0.w") == "model.layers.0.w"
    assert plain_name("_orig_mod.layers.0._checkpoint_wrapped_module.w") == "layers.0.w"
    assert plain_name("model.module.w") == "model.module.w"


def test_the_dtypes_of_a_checkpoint_are_read_from_its_headers(model: Path, tmp_path: Path) -> None:
    assert set(dtypes_of(model).values()) == {torch.bfloat16}
    with pytest.raises(UsageError, match="no .safetensors file"):
        dtypes_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(UsageError, match="header is longer"):
        dtypes_of(tmp_path)
