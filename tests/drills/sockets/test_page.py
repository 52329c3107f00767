"""The page's server is killed and stopped while a console looks on: nobody else is disturbed, and it serves again."""

from __future__ import annotations

import os
import signal
import statistics
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.conftest import SLOW
from tests.drills.sockets import phantom
from tests.drills.sockets.conftest import Theatre, opened
from tests.drills.sockets.started import free_port
from tests.drills.sockets.test_room import ROUNDS

GONE_S = {signal.SIGKILL: 5.0, signal.SIGSTOP: 10.0}
"""Until another process serves at the latest, besides what starting one takes: what stands still has ten seconds."""
START_S = 10.0


@pytest.fixture(scope="module")
def page_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def with_page(lines, hu, own_cache, tmp_path_factory, page_port) -> Iterator[Theatre]:
    folder = tmp_path_factory.mktemp("page")
    theatre = opened(folder, lines, hu, phantom.volume_from_index(), page_port=page_port)
    try:
        theatre.calm(120.0)
        yield theatre
    finally:
        theatre.close()


def served(port: int) -> bool:
    """Whether the page's server answers anything."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=0.5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@SLOW  # that one is started again is asked in tests/node/live, too
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_the_page_dies_or_stands_still(with_page, page_port, how):
    theatre, took_s = with_page, []
    theatre.until(lambda: served(page_port))
    for _ in range(ROUNDS):
        if how is signal.SIGSTOP:
            theatre.run(2.0)  # only what was heard can fall silent
        mark, first = theatre.mark(), theatre.node.pid("display")
        os.kill(first, how)
        took_s.append(
            theatre.until(lambda first=first: theatre.node.pid("display") not in (None, first) and served(page_port))
        )
        verdict = theatre.never_wrong(mark)
        assert verdict.share >= 0.95 or ROUNDS > 1, str(verdict)
        print(f"{how.name}: served again after {took_s[-1]:.1f} s, {verdict.share:.1%} VALID", flush=True)
    assert statistics.median(took_s) < GONE_S[how] + START_S
