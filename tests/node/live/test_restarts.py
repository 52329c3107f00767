"""Processes that are killed: everything is INVALID meanwhile, and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from navnode.types import NodeState, Status
from tests.node.live.consoles import state_of, until

pytestmark = pytest.mark.long


def test_a_killed_worker_comes_back(live):
    supervisor, listener = live
    killed, before = supervisor.pid("worker"), supervisor.restarts()["worker"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: supervisor.pid("worker") != killed and state_of(supervisor).worker_alive, supervisor)
    assert supervisor.restarts()["worker"] == before + 1
    assert listener.status("PatientToVolume") == "OK"


def test_a_killed_simulator_turns_everything_invalid_until_it_is_confirmed_anew(live):
    supervisor, listener = live
    until(lambda: state_of(supervisor).registration.status is Status.VALID, supervisor)
    os.kill(supervisor.pid("simulator"), signal.SIGKILL)
    until(
        lambda: listener.status("DrillToVolume") == "INVALID" and listener.status("PatientToVolume") == "INVALID",
        supervisor,
    )
    before = len(listener.of("DrillToVolume")) - 1
    until(lambda: len(listener.of("DrillToVolume")) > before + 3, supervisor)
    assert {m.metadata["Validity"] for m in listener.of("DrillToVolume")[before : before + 3]} == {"INVALID"}
    until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
    assert supervisor.restarts()["simulator"] == 1


def test_a_killed_node_comes_back(live):
    supervisor, listener = live
    last = supervisor.watch()
    assert last is not None
    os.kill(supervisor.pid("node"), signal.SIGKILL)
    until(lambda: supervisor.restarts()["node"] == 1, supervisor)
    heard = len(listener.heard)
    # A console may be back only when all is confirmed anew; what the node has said from its start is in its states.
    states: list[NodeState] = []

    def confirmed() -> bool:
        state = supervisor.watch()
        if state is not None and state.now_ns > last.now_ns and state.epoch != last.epoch:
            states.append(state)
        return bool(states) and states[-1].registration.usable

    until(confirmed, supervisor)
    assert not states[0].registration.usable  # it knows nothing of what the last one knew
    assert not any(tool.usable for tool in states[0].tools.values())
    confirm_frames = supervisor.config.registration.confirm_frames
    assert all(state.frames_registered >= confirm_frames for state in states if state.registration.usable)
    assert states[0].dose.frames >= last.dose.frames > 0, "nor does the patient's dose begin anew"
    assert states[-1].dose.gy_cm2 > states[0].dose.gy_cm2
    until(
        lambda: any(
            m.metadata.get("TransformStatus") == "OK" for m in listener.heard[heard:] if m.device == "DrillToVolume"
        ),
        supervisor,
    )


def test_a_worker_that_is_gone_is_told_at_once(live):
    supervisor, _ = live
    until(lambda: state_of(supervisor).worker_alive, supervisor)
    os.kill(supervisor.pid("worker"), signal.SIGKILL)
    until(lambda: not state_of(supervisor).worker_alive, supervisor)
    assert "gone" in state_of(supervisor).worker, "by its connection, and not only when its heartbeats have been missed"
    until(lambda: state_of(supervisor).worker_alive, supervisor)


def test_a_page_that_stands_still_is_served_by_a_new_process(live):
    supervisor, _ = live
    port = supervisor.config.display.port

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200
        return False

    until(answers, supervisor)
    before, hung = supervisor.restarts()["display"], supervisor.pid("display")
    os.kill(hung, signal.SIGSTOP)
    until(lambda: supervisor.restarts()["display"] > before, supervisor)
    assert supervisor.pid("display") != hung and not Path(f"/proc/{hung}").exists()
    until(answers, supervisor)


def test_a_node_that_stands_still_is_ended_and_started_again(live):
    supervisor, listener = live
    until(lambda: supervisor.watch() is not None, supervisor)
    before, hung = supervisor.restarts()["node"], supervisor.pid("node")
    os.kill(hung, signal.SIGSTOP)
    until(lambda: supervisor.watch() is None, supervisor)  # nothing it said still counts
    until(lambda: supervisor.restarts()["node"] > before, supervisor)
    assert supervisor.pid("node") != hung and not Path(f"/proc/{hung}").exists(), "the one that hung is gone"
    heard = len(listener.of("DrillToVolume"))  # by the one that hung
    until(lambda: len(listener.of("DrillToVolume")) > heard and listener.status("DrillToVolume") == "OK", supervisor)
    until(lambda: supervisor.watch() is not None, supervisor)
    assert supervisor.restarts()["node"] == before + 1, "and once is enough"
