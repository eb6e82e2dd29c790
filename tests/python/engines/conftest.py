"""What the tests of trainers and engines share: a tiny model, servers, and a stream in a temporary directory."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))

import servers  # noqa: E402

os.environ.update(servers.OFFLINE)
warnings.simplefilter("ignore")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory with a tiny model in bf16, and its tokenizer."""
    import tiny

    return tiny.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stream(tmp_path: Path) -> str:
    """The URL of a stream that does not exist yet."""
    return str(tmp_path / "stream")


def plugin(directory: Path, name: str, code: str) -> dict[str, str]:
    """An environment in which vLLM runs `code`, the body of a function, before it loads a model."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    (directory / f"{name}.py").write_text(f"def register():\n{lines}")
    metadata = directory / f"{name}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{name} = {name}:register\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))}


# Which kernels there are for a CPU depends on whether it has AVX-512 and AMX.
LEAVES_ALONE = """\
import vllm._custom_ops
import vllm.model_executor.layers.utils
vllm._custom_ops._supports_onednn = False
vllm.model_executor.layers.utils.check_cpu_sgl_kernel = lambda *_: False
"""


@pytest.fixture(scope="session")
def plain_kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which vLLM on a CPU leaves the weights as the model loads them, as it does on a GPU.

    By default kernels take them over, and nothing can be scattered into them.
    """
    return plugin(tmp_path_factory.mktemp("leaves_alone"), "leaves_alone", LEAVES_ALONE)


# Keeps the weight as oneDNN does: by itself, and in an order of its own. Of vLLM's own kernels there are none for some
# CPUs, and on others oneDNN refuses the weights when it is asked, so these take the place of all.
TAKES_OVER = """\
import torch
import vllm._custom_ops as ops
import vllm.model_executor.layers.utils
vllm.model_executor.layers.utils.check_cpu_sgl_kernel = lambda *_: False
ops._supports_onednn = True
ops.create_onednn_mm = lambda weight, cache_size: weight.contiguous()
ops.onednn_mm = lambda taken, x, bias: torch.nn.functional.linear(x, taken.t(), bias)
"""


@pytest.fixture(scope="session")
def kernels_that_take_weights_over(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which kernels of vLLM keep the weights, on every CPU."""
    return plugin(tmp_path_factory.mktemp("takes_over"), "takes_over", TAKES_OVER)
