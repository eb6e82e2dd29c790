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


@pytest.fixture(scope="session")
def plain_kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which vLLM on a CPU leaves the weights as the model loads them, as it does on a GPU.

    By default oneDNN takes them over, and nothing can be scattered into them.
    """
    directory = tmp_path_factory.mktemp("plain_kernels")
    (directory / "plain_kernels.py").write_text(
        "def register():\n    import vllm._custom_ops\n    vllm._custom_ops._supports_onednn = False\n"
    )
    metadata = directory / "plain_kernels-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-kernels\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[vllm.general_plugins]\nplain_kernels = plain_kernels:register\n")
    path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}
