"""Runs the Python examples of the documentation with nothing installed but the package and NumPy."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

import tensorpatch

root = Path(__file__).resolve().parents[2]
state = {"w": numpy.arange(6, dtype=numpy.float32)}


class Model:
    def state_dict(self):
        state["w"][1] += 1
        return state


class Engine:
    def reload(self, directory):
        pass

    def pause(self):
        pass

    def resume(self):
        pass


for document in ("README.md", "crates/tensorpatch-python/README.md", "docs/python.md"):
    blocks = re.findall(r"^```python\n(.*?)^```", (root / document).read_text(), re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        os.environ["XDG_CACHE_HOME"] = directory
        tensorpatch.diff(None, state, "full.tpatch")
        tensorpatch.apply(None, "full.tpatch", "step-5.safetensors")
        made = subprocess.check_output([sys.executable, "-I", "-m", "tensorpatch", "--json", "keygen", "trainer.key"])
        names = {"model": Model(), "engine": Engine(), "public_key": json.loads(made)["public_key"]}
        for block in blocks:
            exec(block.replace("s3://bucket/run-7", "stream"), names)
        os.chdir(root)
    print(f"{document}: {len(blocks)} examples ran on Python {sys.version.split()[0]}")

# Printed, and not asserted: times depend on the machine.
program = "import time; begun = time.perf_counter(); import tensorpatch; print(time.perf_counter() - begun)"
imports = [float(subprocess.check_output([sys.executable, "-I", "-c", program])) for _ in range(5)]
print(f"import tensorpatch takes {min(imports) * 1000:.1f} ms")
