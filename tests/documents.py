"""Documents followed to the letter: their commands run in a shell, with programs that stand in for installed ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["followed"]


def followed(folder: Path, script: str, programs: Mapping[str, str], timeout_s: float) -> str:
    """Run a script in a folder, and return what it prints; it must end with 0.

    Args:
        programs: texts of what is found by name before anything that is installed.
    """
    found_in = folder / "bin"
    found_in.mkdir()
    for name, text in programs.items():
        (found_in / name).write_text(text)
        (found_in / name).chmod(0o755)
    ran = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{found_in}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout
