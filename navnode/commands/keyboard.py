"""Terminal keys that control the player of a session."""

from __future__ import annotations

import contextlib
import select
import sys
import threading
from collections.abc import Callable, Iterator

from navnode.recording.player import steer

_SEEK_S = 5.0
"""Jump of the arrow keys."""
_KEYS = {
    " ": ("ReplayPause", ""),
    ".": ("ReplayStep", ""),
    "b": ("ReplayBurst", "5"),
    "\x1b[C": ("ReplaySeek", f"+{_SEEK_S:g}"),
    "\x1b[D": ("ReplaySeek", f"-{_SEEK_S:g}"),
}


@contextlib.contextmanager
def keyboard(player: tuple[str, int]) -> Iterator[Callable[[], bool]]:
    """Send keys of the terminal to the player as commands; yields a function that is true once q was pressed."""
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
        name, seconds = _KEYS.get(key, ("", ""))
        if key == " ":
            name, paused = ("ReplayResume" if paused else "ReplayPause"), not paused
        if name:
            paused = paused or name == "ReplayStep"
            steer(player, name, seconds)
