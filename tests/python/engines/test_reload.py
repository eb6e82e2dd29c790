"""Loads that fail in the middle, by vLLM's own code, in a model that is small enough to do without a server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tensorpatch import Publisher, UsageError

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase  # noqa: E402
from vllm.model_executor.model_loader import reload as vllm_reload  # noqa: E402

from tensorpatch.vllm import engine as engine_module  # noqa: E402
from tensorpatch.vllm.engine import Engine, InitInfo, UpdateInfo  # noqa: E402
from tensorpatch.vllm.reload import form_of, load, take_back, what  # noqa: E402

State = dict[str, torch.Tensor]


class TakesOver(QuantizeMethodBase):
    """Keeps the weight by itself, as oneDNN does."""

    def create_weights(self, *_: Any, **__: Any) -> None: ...

    def apply(self, *_: Any, **__: Any) -> None: ...

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        layer.taken = layer.weight.detach().clone()
        layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)


class Fused(torch.nn.Module):
    """One weight that a checkpoint has as two halves."""

    def __init__(self, taken_over: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8, 4), requires_grad=False)
        self.weight.weight_loader = self.load
        if taken_over:
            self.quant_method = TakesOver()

    def load(self, param: torch.nn.Parameter, loaded_weight: torch.Tensor, half: int) -> None:
        place = param.data.narrow(0, 4 * half, 4)
        assert place.shape == loaded_weight.shape
        place.copy_(loaded_weight)


class Model(torch.nn.Module):
    """Two layers that load as those of vLLM do."""

    def __init__(self, taken_over: bool = True) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Fused(taken_over) for _ in range(2))
        vllm_reload.record_metadata_for_reloading(self)
        for layer in self.layers:
            if taken_over:
                layer.quant_method.process_weights_after_loading(layer)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        for name, tensor in weights:
            layer, part = name.split(".")[1:3]
            half = {"a": 0, "b": 1, "b_again": 1}[part]
            param = self.layers[int(layer)].weight
            param.weight_loader(param, tensor, half)
        return {name for name, _ in self.named_parameters()}

    def holds(self) -> torch.Tensor:
        return torch.stack([getattr(layer, "taken", layer.weight.data) for layer in self.layers])


CONFIG = SimpleNamespace(model="nowhere", revision=None, quantization=None, dtype=torch.float32)
NAMES = [f"layers.{layer}.{half}" for layer in range(2) for half in "ab"]


def state(value: float) -> State:
    return {name: torch.full((4, 4), value + number / 8) for number, name in enumerate(NAMES)}


def held(state: State) -> torch.Tensor:
    """What a model holds that has loaded this state."""
    return torch.stack([torch.cat([state[f"layers.{layer}.{half}"] for half in "ab"]) for layer in range(2)])


# Loads that fail: with what was loaded, with what was to be loaded, and when a layer has all that it needs.
BAD = {"layers.0.ab": torch.zeros(4, 4), "layers.1.b": torch.zeros(3, 3), "layers.0.b_again": torch.zeros(3, 3)}


def checkpoint(directory: Path, state: State) -> Path:
    directory.mkdir(exist_ok=True)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("taken_over", [True, False])
def test_what_a_failed_load_leaves_is_taken_back(name: str, taken_over: bool, tmp_path: Path) -> None:
    model = Model(taken_over)
    load(model, CONFIG, checkpoint(tmp_path / "one", state(1)))
    assert torch.equal(model.holds(), held(state(1)))
    for _ in range(2):
        form = form_of(model)
        with pytest.raises(UsageError, match=f"while {name} was loaded"):
            load(model, CONFIG, checkpoint(tmp_path / "two", {**state(2), name: BAD[name]}))
        assert take_back(model, CONFIG, form)
        assert form_of(model) == form
    load(model, CONFIG, checkpoint(tmp_path / "three", state(3)))
    assert torch.equal(model.holds(), held(state(3)))


def test_a_model_that_vllm_cannot_set_back_is_noticed(tmp_path: Path) -> None:
    model = Model()
    form = form_of(model)
    with pytest.raises(UsageError):
        load(model, CONFIG, checkpoint(tmp_path / "two", {**state(2), "layers.1.b": BAD["layers.1.b"]}))
    vllm_reload.layerwise.get_layerwise_info(model.layers[1]).kernel_tensors = None
    assert not take_back(model, CONFIG, form)


def test_an_error_without_a_text_says_where_it_arose() -> None:
    try:
        assert torch.zeros(1).shape == torch.zeros(2).shape
    except AssertionError as error:
        error.args = ()
        assert "assert torch.zeros(1).shape == torch.zeros(2).shape (test_reload.py:" in what(error)


class Run:
    """A stream of states, and the engine of a worker that has loaded none of them yet."""

    def __init__(self, directory: Path, taken_over: bool = True) -> None:
        self.directory = directory
        self.publisher = Publisher(str(directory / "stream"), baseline=directory / "baseline")
        self.model = Model(taken_over)
        config = SimpleNamespace(parallel_config=SimpleNamespace(rank=0), model_config=CONFIG)
        self.engine = Engine(SimpleNamespace(), config, torch.device("cpu"), self.model)
        self.publish(state(0))
        self.engine.init_transfer_engine(InitInfo(str(directory / "stream"), str(directory / "host")))

    def publish(self, state: State) -> int:
        return self.publisher.publish(checkpoint(self.directory / "published", state)).version

    def take(self, state: State) -> int:
        version = self.publish(state)
        self.engine.receive_weights(UpdateInfo(version))
        assert self.engine.status()["served"] == version
        return version


def test_a_version_that_cannot_fit_is_refused_and_the_model_stays_what_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path)
    version = run.take(state(1))
    without = state(2)
    del without["layers.0.b"]
    misshapen = {**state(2), "layers.1.b": BAD["layers.1.b"]}
    for bad, why in ((misshapen, "layers.1.b has the shape"), (without, "layers.0.b is missing")):
        with pytest.raises(UsageError, match=why):
            run.take(bad)
        status = run.engine.status()
        assert (status["served"], status["sound"]) == (version, True)
        assert why in status["error"]
        assert torch.equal(run.model.holds(), held(state(1)))


def test_after_a_load_that_failed_the_next_version_is_loaded_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.take(state(1))
    with pytest.raises(UsageError, match="was not loaded: KeyError: 'ab' .while layers.0.ab"):
        run.take({**state(2), "layers.0.ab": BAD["layers.0.ab"]})
    status = run.engine.status()
    assert (status["served"], status["sound"]) == (None, False)
    run.take(state(3))
    assert torch.equal(run.model.holds(), held(state(3)))
    assert (run.engine.status()["sound"], run.engine.status()["error"]) == (True, None)


def test_a_model_that_cannot_be_set_back_serves_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.take(state(1))
    monkeypatch.setattr(engine_module, "take_back", lambda *_: False)
    with pytest.raises(UsageError, match="restart the server"):
        run.take({**state(2), "layers.0.ab": BAD["layers.0.ab"]})
    monkeypatch.undo()
    version = run.publish(state(3))
    with pytest.raises(UsageError, match="restart the server"):
        run.engine.receive_weights(UpdateInfo(version))
    run.engine.fetch_in_background(version)
    run.engine.shutdown()
    status = run.engine.status()
    assert (status["served"], status["sound"]) == (None, False)
    assert "restart the server" in status["error"]


def test_after_a_load_that_failed_weights_that_can_be_read_are_compared_with_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, taken_over=False)
    # The first load finds that the layout is that of the checkpoint.
    run.take(state(1))
    with pytest.raises(UsageError, match="ab"):
        run.take({**state(2), "layers.0.ab": BAD["layers.0.ab"]})

    def loses_a_half(model: Model, config: Any, checkpoint: Path) -> None:
        load(model, config, checkpoint)
        model.layers[1].weight.data[4:] = 1

    monkeypatch.setattr(engine_module, "load", loses_a_half)
    with pytest.raises(UsageError, match="other weights than its checkpoint has: restart the server"):
        run.take(state(3))
    assert run.engine.status()["served"] is None


def test_a_quiet_update_tells_its_error_in_the_status(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.take(state(1))
    version = run.publish({**state(2), "layers.0.ab": BAD["layers.0.ab"]})
    run.engine.receive_weights(UpdateInfo(version, quiet=True))
    assert f"version {version} was not loaded: KeyError" in run.engine.status()["error"]


def test_a_model_that_was_changed_is_not_taken_for_the_one_that_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = checkpoint(tmp_path / "started", state(0))
    monkeypatch.setattr(CONFIG, "model", str(started))
    run = Run(tmp_path)
    info = InitInfo(str(tmp_path / "stream"), str(tmp_path / "host"))
    assert run.engine.status()["served"] == 1
    with pytest.raises(UsageError, match="ab"):
        run.take({**state(2), "layers.0.ab": BAD["layers.0.ab"]})
    # The stream goes back to what the server was started with.
    version = run.publish(state(0))
    run.engine.init_transfer_engine(info)
    assert (run.engine.status()["served"], run.engine.status()["sound"]) == (None, False)
    run.engine.receive_weights(UpdateInfo(version))
    assert torch.equal(run.model.holds(), held(state(0)))
