"""The command, called as its users call it."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from navnode import cli
from navnode.errors import ConfigError, NavError


def call(*arguments):
    """Exit code, the document on standard output, standard error. As main() does it."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    code, error = result.exit_code, result.stderr
    if isinstance(result.exception, NavError):
        code, error = (2 if isinstance(result.exception, ConfigError) else 1), str(result.exception)
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = result.stdout.strip()
    return code, json.loads(text) if "--json" in arguments and text else None, error


def run_navnode(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "navnode", *arguments], capture_output=True, text=True, timeout=timeout_s
    )
