"""Actors of Ray that publish together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

EXAMPLE = Path(__file__).parents[3] / "examples" / "python" / "ray_actors.py"


def test_actors_publish_a_model_of_which_each_has_a_part(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--actors", "2", "--steps", "3", "--stream", str(tmp_path / "stream")],
        # Ray keeps files of its own in the home of the user.
        env={**os.environ, "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 2: version 3" in done.stdout
    assert "bit for bit what the actors have" in done.stdout
