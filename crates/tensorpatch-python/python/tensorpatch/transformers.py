"""Any trainer of transformers over a stream: `Trainer(..., callbacks=[PublishCallback(url)])`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from . import Publisher, UsageError
from .torch.names import Dtypes, dtype_named, named_tensors, state_of
from .torch.ranks import rank_state
from .training import StatePublisher, Step, base_directory, companions_of, publish_base
from .training_ranks import RankPublisher


class PublishCallback(TrainerCallback):
    """Publishes the model after the optimiser step, beside the training.

    The step is delayed by the comparison, and by the copy of what changed to the host. A second version that comes
    before the first is published waits for it. A version that cannot be published is reported, and the next one
    brings what it had. The end of the training raises if the final weights are not published.

    Works with one process, with data parallelism (the main process publishes) and with FSDP2 (each process publishes
    what it owns, in one commit). DeepSpeed's ZeRO-3 and FSDP1 are refused: see docs/engines.md.
    """

    def __init__(
        self,
        url: str,
        *,
        base: str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        every: int = 1,
        **publisher: Any,
    ) -> None:
        """Arguments:

        * `url`: the stream.
        * `base`: the checkpoint that the training starts from, which becomes the first version. Without, the model
          as it is at the start does, with its configuration and tokenizer.
        * `dtype`: what is served, such as `bfloat16`; that of `base`, or of the model, if nothing is said.
        * `every`: steps between versions.
        * the rest: options of `tensorpatch.Publisher`.
        """
        if every < 1:
            raise UsageError("every must be at least 1", "refused")
        self._url = url
        self._base = base
        self._dtype: Dtypes = dtype_named(dtype)
        self._every = every
        self._options = publisher
        self._states: StatePublisher | None = None

    @property
    def steps(self) -> list[Step]:
        """What was published, with bytes and times; one entry for each version."""
        return [] if self._states is None else self._states.steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = kwargs["model"]
        _refuse_unknown_sharding(model)
        ranked = _is_sharded(model)
        if not ranked and not state.is_world_process_zero:
            return
        if ranked:
            self._states = RankPublisher(self._url, self._options)
        else:
            self._states = StatePublisher(Publisher(self._url, **self._options))
        self._first(model, kwargs.get("processing_class"))

    def _first(self, model: torch.nn.Module, processing_class: Any) -> None:
        assert self._states is not None
        if self._base is not None:
            dtype = self._dtype if isinstance(self._dtype, torch.dtype) else None
            base = base_directory(self._base)
            self._dtype = self._states.first(lambda publisher: publish_base(publisher, base, dtype)[1])
            return
        # A walk over shards is a collective: it happens on every process, and the main one publishes it.
        with tempfile.TemporaryDirectory() as scratch:
            for part in (getattr(model, "config", None), processing_class):
                save = getattr(part, "save_pretrained", None)
                if save is not None:
                    save(scratch)
            companions = companions_of(Path(scratch))
            walk = state_of(model, dtype=self._dtype)
            self._states.first(lambda publisher: publisher.publish(walk, label="start", companions=companions), walk)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._states is None or state.global_step % self._every:
            return
        model = kwargs["model"]
        walk = rank_state if isinstance(self._states, RankPublisher) else state_of
        self._states.publish(walk(model, dtype=self._dtype), label=f"step {state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._states is not None:
            self._states.close()


def _is_sharded(model: torch.nn.Module) -> bool:
    return any(hasattr(tensor, "placements") for _, tensor in named_tensors(model))


def _refuse_unknown_sharding(model: torch.nn.Module) -> None:
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise UsageError("DeepSpeed ZeRO-3 shards the parameters, and this callback does not gather them", "refused")
    if type(model).__name__ == "FullyShardedDataParallel":
        raise UsageError("the model is wrapped by FSDP1: set fsdp_version 2", "refused")
