"""Scheduling of the loop, looked at from a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

from navnode import config
from navnode.node.supervisor import Supervisor

_LOOK = """
import json, os, threading
from navnode.node import processes

def policy():
    seen.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)

seen = []
may = processes.may_take_loop_priority()
policy()
took = processes.take_loop_priority()
policy()
helper = threading.Thread(target=policy)
helper.start()
helper.join()
print(json.dumps({"may": may, "took": took, "seen": seen, "other": os.SCHED_OTHER, "rr": os.SCHED_RR}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="real-time scheduling is used on Linux only")
def test_only_the_loops_thread_is_scheduled_in_real_time_and_only_if_allowed():
    found = json.loads(subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, check=True).stdout)
    assert found["may"] == found["took"]
    after_asking, loop, helper = found["seen"]
    assert after_asking == found["other"], "asking whether it may must not change anything"
    assert loop == (found["rr"] if found["took"] else found["other"])
    assert helper == found["other"]


def test_signals_mean_again_what_they_did_when_a_supervisor_has_ended():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Supervisor(config.load("demo.toml"), None):
        pass
    assert [signal.getsignal(number) for number in numbers] == before
