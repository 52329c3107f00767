"""Commands as tests call them, and the session that most of them are called with."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from navnode import cli
from navnode.errors import CalibrationError, ConfigError, NavError

GOLDEN = Path(__file__).parent / "golden" / "room.mcap"


def call(*arguments):
    """Exit code, the document on standard output, standard error. As main() does it."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    code, error = result.exit_code, result.stderr
    if isinstance(result.exception, NavError):
        code, error = (2 if isinstance(result.exception, ConfigError | CalibrationError) else 1), str(result.exception)
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = result.stdout.strip()
    return code, json.loads(text) if "--json" in arguments and text else None, error
