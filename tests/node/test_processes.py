"""Scheduling of the loop, looked at from a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

from navnode import config
from navnode.errors import ConfigError
from navnode.node import supervisor
from navnode.node.processes import serve_until_told
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


def test_a_process_that_hangs_before_its_first_sign_of_life_is_killed(monkeypatch):
    said = []
    clock_s = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: clock_s[0])
    made = Supervisor(config.load("demo.toml"), None, said.append)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)
    try:
        child = made._children["node"] = supervisor._Child("node", sleeper, clock_s[0])
        for after_s, killed in ((0.0, False), (9.5, False), (10.5, True)):  # it took 2 s before
            made._starts_s["node"] = 2.0
            clock_s[0] = 1000.0 + after_s
            made._watched_s = clock_s[0] - 0.1
            made._end_hung()
            assert bool(said) == killed
        assert sleeper.wait(5) == -signal.SIGKILL and "hangs while it starts" in said[0]
        assert child.heard_s == 0
    finally:
        sleeper.kill()
        made.stop()


SLOW_STEPS = """
import asyncio, sys, time
from navnode.node.processes import serve_until_told

async def work():
    try:
        while True:
            print("began", flush=True)
            time.sleep(0.2)
            print("ended", flush=True)
            await asyncio.sleep(0)
    finally:
        print("closed", flush=True)

serve_until_told(work())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_completes_its_step(number):
    with subprocess.Popen([sys.executable, "-c", SLOW_STEPS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "began\n"
        process.send_signal(number)  # the step takes 0.2 s
        rest = process.stdout.read().splitlines()
    assert rest[-2:] == ["ended", "closed"] and process.returncode == 128 + number


def test_what_fails_in_a_process_is_raised_there():
    async def work() -> None:
        raise ConfigError("the port is taken")

    with pytest.raises(ConfigError, match="taken"):
        serve_until_told(work())


def test_as_many_sockets_may_be_open_as_the_user_is_allowed():
    look = (
        "import resource; from navnode.node import processes\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "processes.may_open_more()\n"
        "soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "assert soft > 256 and (soft == hard or soft == 65_536), (soft, hard)\n"
    )
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0
