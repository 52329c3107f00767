"""One running node for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from navnode.node.supervisor import Supervisor
from navnode.simulation import room
from tests.conftest import find_free_port
from tests.node.live.consoles import Listener, node_config, settings_for, until


@pytest.fixture(scope="package")
def live(procedural_ct) -> Iterator[tuple[Supervisor, Listener]]:
    """Simulator, worker, node and display, registered and confirmed."""
    simulator = settings_for(find_free_port())
    room.prepare(simulator)
    with Supervisor(node_config("demo.toml", simulator.port), simulator) as supervisor:
        supervisor.start()
        listener = Listener(supervisor.config.console.port)
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
        yield supervisor, listener
        listener.stop()
