"""What the package is: its import, its types, its command, its documentation."""

from __future__ import annotations

import ast
import concurrent.futures
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy
import pytest
from conftest import Training

import tensorpatch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_importing_loads_no_framework_and_starts_no_thread() -> None:
    program = """
import sys, os
before = set(sys.modules)
import tensorpatch
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = loaded & {"asyncio", "concurrent", "ctypes", "logging", "numpy", "torch", "tqdm", "typing_extensions"}
own = [name for name in sys.modules if name.startswith("tensorpatch")]
print(sorted(heavy), len(own) < 20, len(set(sys.modules) - before) < 100, len(os.listdir("/proc/self/task")))
"""
    assert run(sys.executable, "-I", "-c", program, check=True).stdout == "[] True True 1\n"


@pytest.mark.parametrize("kind", ["s3", "gs", "az", "hf"])
def test_every_kind_of_store_is_in_the_wheel(kind: str, training: Training) -> None:
    with pytest.raises(tensorpatch.UsageError) as refused:
        tensorpatch.Replica(f"{kind}://", training.path("replica"))
    assert "this build" not in str(refused.value)


def test_everything_public_has_documentation() -> None:
    for name in tensorpatch.__all__:
        value = getattr(tensorpatch, name)
        if isinstance(value, type):
            assert value.__doc__, name
            members = [member for key, member in vars(value).items() if not key.startswith("_")]
            for member in members:
                if callable(member) or isinstance(member, property):
                    assert member.__doc__, (name, member)
        elif type(value).__module__ == "builtins" and callable(value):
            assert value.__doc__, name


def test_a_program_that_uses_all_of_it_is_well_typed() -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("there is no mypy")
    checked = run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", str(HERE / "typed.py"))
    assert checked.returncode == 0, checked.stdout


def test_the_stubs_are_those_of_the_extension() -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("there is no mypy")
    checked = run(sys.executable, "-m", "mypy.stubtest", "tensorpatch._native", "--mypy-config-file", "/dev/null")
    assert checked.returncode == 0, checked.stdout


def test_the_command_is_that_of_the_binary(training: Training) -> None:
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    command = (sys.executable, "-m", "tensorpatch")
    version = run(*command, "--version", check=True)
    assert version.stdout == f"tensorpatch {tensorpatch.__version__}\n"
    shown = run(*command, "--json", "inspect", str(training.path("full.tpatch")), check=True)
    assert json.loads(shown.stdout)["target"] == tensorpatch.digest(training.state)
    missing = run(*command, "pull", str(training.path("none")), str(training.path("replica")))
    assert missing.returncode == 6 and "advice: check the URL" in missing.stderr
    wrong = run(*command, "pull")
    assert wrong.returncode == 2 and "Usage" in wrong.stderr
    script = Path(sys.executable).with_name("tensorpatch")
    if script.exists():
        assert run(str(script), "--version", check=True).stdout == version.stdout


@pytest.mark.parametrize("path", ["README.md", "crates/tensorpatch-python/README.md", "docs/python.md"])
def test_the_examples_of_the_documentation_run(path: str, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(training.directory)

    class Model:
        def state_dict(self) -> dict[str, object]:
            return {name: array for name, array in training.train().items()}

    class Engine:
        def reload(self, directory: object) -> None:
            pass

        def pause(self) -> None:
            pass

        def resume(self) -> None:
            pass

    tensorpatch.diff(None, training.state, "full.tpatch")
    tensorpatch.apply(None, "full.tpatch", "step-5.safetensors")
    keygen = run(sys.executable, "-m", "tensorpatch", "--json", "keygen", "trainer.key", check=True)
    public_key = json.loads(keygen.stdout)["public_key"]
    names: dict[str, object] = {"public_key": public_key, "model": Model(), "engine": Engine(), "numpy": numpy}
    for block in blocks:
        exec(block.replace("s3://bucket/run-7", "run-7"), names)


def test_every_annotation_can_be_evaluated() -> None:
    for name in tensorpatch.__all__:
        value = getattr(tensorpatch, name)
        if isinstance(value, type):
            for key, member in vars(value).items():
                function = member.fget if isinstance(member, property) else member
                if inspect.isfunction(function) and (key == "__init__" or not key.startswith("_")):
                    typing.get_type_hints(function)
        elif inspect.isfunction(value):
            typing.get_type_hints(value)
    hints = typing.get_type_hints(tensorpatch.Publisher.publish_in_background)
    assert hints["return"] == concurrent.futures.Future[tensorpatch.Published]


def test_every_field_of_a_result_has_documentation() -> None:
    source = inspect.getsource(sys.modules[tensorpatch.Report.__module__])
    for report in ast.parse(source).body:
        if isinstance(report, ast.ClassDef):
            for field, after in zip(report.body, [*report.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), f"{report.name}.{ast.unparse(field)}"
