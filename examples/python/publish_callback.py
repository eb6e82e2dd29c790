"""GRPO with `PublishCallback`, and a replica that follows: needs torch, transformers, trl and tensorpatch, no engine.

    python publish_callback.py [--model DIRECTORY] [--stream URL] [--steps N]

Without `--model` it makes a small model with random weights: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiny  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from tensorpatch import Replica  # noqa: E402
from tensorpatch.torch import changed, state_of  # noqa: E402
from tensorpatch.transformers import PublishCallback  # noqa: E402


def reward(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """Something to learn: the share of vowels."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / (len(text) or 1) for text in texts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint directory; a tiny random model if not given")
    parser.add_argument("--stream", help="URL of an empty stream; a temporary directory if not given")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        model = options.model or tiny.save(scratch / "model")
        stream = options.stream or str(scratch / "stream")
        callback = PublishCallback(stream, base=model, baseline=scratch / "baseline")
        gpu = torch.cuda.is_available()
        trainer = GRPOTrainer(
            model=str(model),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=str(scratch / "trainer"),
                max_steps=options.steps,
                learning_rate=1e-5,
                per_device_train_batch_size=4,
                num_generations=4,
                max_completion_length=16,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                gradient_checkpointing=False,
                use_cpu=not gpu,
                bf16=gpu,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": [{"role": "user", "content": f"question {n}"}]} for n in range(32)]
            ),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[callback],
        )
        trainer.train()

        print("version    changed       bytes  compare  publish")
        for step in callback.steps:
            p = step.published
            if p is None:
                print(f"{step.label} failed: {step.error}")
                continue
            print(f"{p.version:7} {p.changed_elements:10,} {p.bytes:11,} {step.compare:7.3f}s {step.publish:7.3f}s")

        started = time.perf_counter()
        replica = scratch / "replica"
        pulled = Replica(stream, replica).pull()
        taken = time.perf_counter() - started
        print(f"pulled version {pulled.version}: {pulled.downloaded_bytes:,} bytes, {taken:.3f}s")
        served = {name: t for path in replica.glob("*.safetensors") for name, t in load_file(path).items()}
        trained = state_of(trainer.model, dtype={name: t.dtype for name, t in served.items()})
        same = all(not changed(tensor.cpu(), served.pop(name)).numel() for name, tensor in trained) and not served
    print("bit for bit the trainer's weights" if same else "the weights differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
