"""A real SGLang server that is updated from the replica on its host."""

from __future__ import annotations

from pathlib import Path

import pytest
import servers
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tensorpatch import Publisher
from tensorpatch.http import call

pytest.importorskip("sglang", reason="SGLang is not installed")

from tensorpatch.sglang import Follower  # noqa: E402

PROMPT = [1, 5, 9, 33, 70, 12]


def by_sglang(url: str) -> tuple[list[int], str]:
    sampling = {"max_new_tokens": 8, "temperature": 0}
    reply = call(f"{url}/generate", {"input_ids": PROMPT, "sampling_params": sampling})
    return reply["output_ids"], reply["meta_info"]["weight_version"]


def by_transformers(directory: Path) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokens = model.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False)
    return tokens[0, len(PROMPT) :].tolist()


def test_a_server_generates_what_transformers_does_with_each_version(
    model: Path, stream: str, tmp_path: Path
) -> None:
    publisher = Publisher(stream, baseline=tmp_path / "baseline")
    publisher.publish(model)
    directory = tmp_path / "replica"
    state = load_file(model / "model.safetensors")
    # In f32, because two programs that round to bf16 in other places choose other tokens of nearly the same chance.
    with servers.sglang(model, log=tmp_path / "sglang.log", dtype="float32") as running:
        url = running.url
        assert by_sglang(url) == (by_transformers(model), "default")
        versions = Follower(stream, directory, [url]).follow(poll=0.1)
        assert next(versions)[2].version == 1
        seen = [by_sglang(url)]
        for seed in (1, 2):
            torch.manual_seed(seed)
            for tensor in state.values():
                places = torch.randint(tensor.numel(), (tensor.numel() // 50 + 1,))
                tensor.view(-1)[places] += torch.randn(len(places)).bfloat16() / 2
            version = publisher.publish(state, partial=True).version
            assert next(versions)[2].version == version
            tokens, told = by_sglang(url)
            assert tokens == by_transformers(directory)
            assert told == str(version)
            seen.append((tokens, told))
        assert len({tuple(tokens) for tokens, _ in seen}) == 3
