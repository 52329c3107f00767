"""Processor time of a run's processes."""

import time
from pathlib import Path

import pytest

from navnode.commands import processor
from navnode.commands.processor import Used, cores_s, percent, task_s


def test_processor_time_is_shared_out():
    before = Used(loop=1.0, node=3.0, room=5.0, worker=0.0, cores=20.0)
    after = Used(loop=2.0, node=6.0, room=5.5, worker=1.0, cores=30.0)
    found = percent(before, after, 10.0)
    assert (found.loop, found.others, found.room, found.worker, found.cores) == (10.0, 20.0, 5.0, 10.0, 100.0)


def test_what_was_started_again_or_has_ended_is_unknown_and_the_rest_is_known():
    before = Used(loop=1.0, node=3.0, room=5.0, worker=0.0, cores=None)
    found = percent(before, before._replace(loop=2.0, node=4.0, room=1.0, worker=None, cores=3.0), 10.0)
    assert (found.loop, found.others) == (10.0, 0.0)
    assert found.room is None and found.worker is None and found.cores is None
    again = percent(before, before._replace(loop=0.1, node=0.2), 10.0)
    assert again.loop is None and again.others is None and again.room == 0.0


def test_this_process_and_its_cores_are_read():
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell processor times in /proc")
    used, cores = task_s("self"), cores_s()
    until_s = time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert task_s("self") >= used + 0.08 and cores_s() >= cores + 0.08
    assert task_s("0") is None


def test_what_the_system_does_not_tell_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "Path", lambda name: tmp_path / str(name).strip("/"))
    assert task_s("self") is None and cores_s() is None
