"""Keys of the terminal as commands to the player of a session."""

from __future__ import annotations

import contextlib
import select
import sys
import threading
from collections.abc import Callable, Iterator

from navnode.errors import WireError
from navnode.igtl import BlockingClient

_LATER_S = 5.0
"""How far the arrow keys go."""


_KEYS = {
    " ": ("ReplayPause", ""),
    ".": ("ReplayStep", ""),
    "b": ("ReplayBurst", "<Command Seconds='5'/>"),
    "\x1b[C": ("ReplaySeek", f"<Command Seconds='+{_LATER_S:g}'/>"),
    "\x1b[D": ("ReplaySeek", f"<Command Seconds='-{_LATER_S:g}'/>"),
}


@contextlib.contextmanager
def keyboard(player: tuple[str, int]) -> Iterator[Callable[[], bool]]:
    """Keys of the terminal go to the player as commands; tells whether it shall be over."""
    over = threading.Event()
    if not sys.stdin.isatty():
        yield over.is_set
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        threading.Thread(target=_listen, args=(player, over), name="keyboard", daemon=True).start()
        yield over.is_set
    finally:
        over.set()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _listen(player: tuple[str, int], over: threading.Event) -> None:
    paused = False
    while not over.is_set():
        if not select.select([sys.stdin], [], [], 0.2)[0]:
            continue
        key = sys.stdin.read(1)
        if key == "\x1b":
            key += sys.stdin.read(2)
        if key == "q":
            over.set()
        name, text = _KEYS.get(key, ("", ""))
        if key == " ":
            name, paused = ("ReplayResume" if paused else "ReplayPause"), not paused
        if name:
            paused = paused or name == "ReplayStep"
            with contextlib.suppress(OSError, WireError), BlockingClient(*player) as client:
                client.command(name, text)
