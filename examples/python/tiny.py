"""A language model that is small enough for a laptop, with random weights and a tokenizer: nothing is downloaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def save(directory: Path, *, layers: int = 2, hidden: int = 128, seed: int = 0) -> Path:
    """Writes the model in bf16 and the tokenizer to `directory`."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and those of the chat. TRL knows only the chat templates that it brings."""
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[3:],
    )
    trl = find_spec("trl")
    template = Path(trl.origin).parent / "chat_templates" / "qwen2_5.jinja" if trl and trl.origin else None
    fast.chat_template = template.read_text() if template and template.exists() else CHAT
    return fast


if __name__ == "__main__":
    print(save(Path(sys.argv[1])))
