"""What a demo checks before it does anything that takes long."""

import pytest
from typer.testing import CliRunner

from navnode import cli
from navnode.errors import ConfigError
from navnode.simulation import sample_ct


def test_a_recording_that_exists_is_refused_before_a_ct_is_fetched(tmp_path, monkeypatch):
    there = tmp_path / "there.mcap"
    there.touch()
    monkeypatch.setattr(sample_ct, "resolve_ct", lambda *arguments: pytest.fail("the CT was asked for"))
    result = CliRunner().invoke(cli.app, ["demo", "--headless", "--seconds", "1", "--record", str(there)])
    assert isinstance(result.exception, ConfigError) and f"--record {there}: exists already" in str(result.exception)
