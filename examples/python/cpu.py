"""Lets TRL's asynchronous trainers run without a GPU, for trying things out: they ask for a kernel of CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


class Attention:
    """What TRL takes from FlashAttention, by plain torch: sequences of different lengths in one tensor, causal."""

    @staticmethod
    def flash_attn_varlen_func(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_ends: torch.Tensor,
        key_ends: torch.Tensor,
        *_: Any,
        softmax_scale: float | None = None,
        **__: Any,
    ) -> torch.Tensor:
        parts = []
        for q, k in zip(_ranges(query_ends), _ranges(key_ends), strict=True):
            # Heads first. The last query sees all keys: the earlier ones of a shared prefix come before.
            q_part, k_part, v_part = query[q].transpose(0, 1), key[k].transpose(0, 1), value[k].transpose(0, 1)
            queries, keys = q_part.shape[1], k_part.shape[1]
            mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
            part = scaled_dot_product_attention(
                q_part[None], k_part[None], v_part[None], mask, scale=softmax_scale, enable_gqa=True
            )
            parts.append(part[0].transpose(0, 1))
        return torch.cat(parts)


def _ranges(ends: torch.Tensor) -> list[slice]:
    places = ends.tolist()
    return [slice(start, end) for start, end in zip(places, places[1:], strict=False)]


def run_trl_without_gpu() -> None:
    """Replaces the kernel, and the question how fast the GPU is."""
    from trl.experimental.async_grpo import async_grpo_trainer, packing

    packing._flash_attn = lambda: Attention
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: 1e12
