#!/usr/bin/env python3
"""Runs any decoder over the conformance vectors.

    run.py VECTORS [--only TEXT] [--seconds N] -- COMMAND...

For each vector it calls `COMMAND PATCH BASE TARGET` with three paths: the patch; the base as a safetensors file, or `-`
if there is none; and a file that is not there. The command answers by its exit status:

    0   it has written the target to TARGET as a safetensors file
    1   it has refused the patch; the last line of its standard output is the class and the offset: `invalid 87`

Any other status, and a command that takes longer than N seconds (60), is a failure. So is a TARGET after a refusal.
`--only` runs the vectors whose id contains TEXT. The runner exits with 1 if a vector failed.

It needs Python 3.11 and the module `zstandard`, as decode.py does, which makes the states for it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from decode import build_states, load_safetensors, save_safetensors


def answer(command: list[str], patch: Path, base: Path | None, target: Path, seconds: float) -> tuple[int, str]:
    """The exit status and the last line that the decoder printed."""
    arguments = [str(patch), "-" if base is None else str(base), str(target)]
    done = subprocess.run(command + arguments, stdout=subprocess.PIPE, timeout=seconds, check=False)
    lines = done.stdout.decode("utf-8", "replace").split("\n")
    return done.returncode, next((line.strip() for line in reversed(lines) if line.strip()), "")


def fault(vector: dict, status: int, line: str, target: Path, states: dict) -> str | None:
    """What is wrong, if anything."""
    if status == 0:
        if vector["result"] == "invalid":
            return f"taken, should be {vector['error']} {vector['offset']}"
        if not target.exists():
            return "taken, and no target was written"
        return None if load_safetensors(target) == states[vector["target"]] else "decoded to another state"
    if status != 1:
        return f"exit status {status}"
    if target.exists():
        return f"refused ({line}), and a target was written"
    if vector["result"] == "valid":
        # A decoder that writes checkpoints refuses a layout that none can have.
        at = vector.get("unwritable")
        return None if at is not None and line == f"invalid {at}" else f"refused: {line}"
    due = f"{vector['error']} {vector['offset']}"
    if "forward" in vector["flags"] and line != due:
        return None if line else "refused without a class"
    return None if line == due else f"refused with {line!r}, should be {due}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a decoder over the conformance vectors.")
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    manifest = json.loads((options.vectors / "manifest.json").read_text())
    states, wrong = build_states(manifest)
    vectors = [vector for vector in manifest["vectors"] if options.only in vector["id"]]
    failed = len(wrong)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for vector in vectors:
            base, target = None, folder / "target"
            target.unlink(missing_ok=True)
            if vector["base"] is not None:
                base = folder / f"{vector['base']}.safetensors"
                if not base.exists():
                    save_safetensors(base, states[vector["base"]])
            try:
                found = answer(options.command, options.vectors / vector["file"], base, target, options.seconds)
                what = fault(vector, *found, target, states)
            except subprocess.TimeoutExpired:
                what = f"no answer within {options.seconds} seconds"
            if what:
                failed += 1
                print(f"{vector['id']} (section {vector['section']}; {vector['comment']}): {what}")
    print(f"{len(vectors)} vectors, {failed} failed")
    return 1 if failed or not vectors else 0


if __name__ == "__main__":
    sys.exit(main())
