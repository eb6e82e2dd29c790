"""`PublishCallback` in the trainers of transformers and TRL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from tensorpatch import Replica, UsageError
from tensorpatch.torch import state_of
from tensorpatch.torch.changes import bits
from tensorpatch.transformers import PublishCallback

STEPS = 3


def train(model: Path, scratch: Path, callback: PublishCallback) -> GRPOTrainer:
    arguments = GRPOConfig(
        output_dir=str(scratch / "trainer"),
        max_steps=STEPS,
        learning_rate=1e-4,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        use_vllm=False,
    )
    trainer = GRPOTrainer(
        model=str(model),
        reward_funcs=lambda completions, **_: [float(place) for place, _ in enumerate(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": f"q{n}"}]} for n in range(16)]),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[callback],
    )
    trainer.train()
    return trainer


def equals(directory: Path, trainer: GRPOTrainer) -> None:
    served = load_file(directory / "model.safetensors")
    trained = dict(state_of(trainer.model, dtype=torch.bfloat16))
    assert served.keys() == trained.keys()
    for name, tensor in trained.items():
        assert served[name].dtype is torch.bfloat16
        assert torch.equal(bits(served[name]), bits(tensor.cpu())), name


def test_grpo_publishes_the_base_and_each_step_as_the_trainer_has_it(
    model: Path, stream: str, tmp_path: Path
) -> None:
    callback = PublishCallback(stream, base=model, baseline=tmp_path / "baseline")
    trainer = train(model, tmp_path, callback)
    assert [step.error for step in callback.steps] == [None] * STEPS
    assert any(step.changed for step in callback.steps)
    pulled = Replica(stream, tmp_path / "replica").pull()
    assert pulled.version == 1 + STEPS
    equals(tmp_path / "replica", trainer)
    # What engines need beside the weights came along with the base.
    AutoModelForCausalLM.from_pretrained(tmp_path / "replica")
    AutoTokenizer.from_pretrained(tmp_path / "replica")


def test_without_a_base_the_model_itself_is_the_first_version(model: Path, stream: str, tmp_path: Path) -> None:
    callback = PublishCallback(stream, dtype="bfloat16", every=2, baseline=tmp_path / "baseline")
    trainer = train(model, tmp_path, callback)
    assert [step.label for step in callback.steps] == ["step 2"]
    replica = Replica(stream, tmp_path / "replica")
    replica.pull(1)
    before = load_file(tmp_path / "replica" / "model.safetensors")
    original = load_file(model / "model.safetensors")
    assert all(torch.equal(bits(before[name]), bits(original[name])) for name in original)
    AutoTokenizer.from_pretrained(tmp_path / "replica")
    assert trainer.state.global_step == STEPS


def test_a_model_with_adapters_is_refused_with_the_way_out() -> None:
    model = torch.nn.Linear(2, 2)
    model.peft_config = {}
    with pytest.raises(UsageError, match="merge them first"):
        list(state_of(model))


def test_parameters_sharded_by_zero_3_are_refused(tmp_path: Path, stream: str) -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.ds_id = 0
    with pytest.raises(UsageError, match="ZeRO-3"):
        PublishCallback(stream).on_train_begin(None, None, None, model=model)


def test_every_must_be_a_number_of_steps(stream: str) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        PublishCallback(stream, every=0)
