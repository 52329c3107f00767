"""How log lines are shown, by commands and by the supervised processes, which are commands, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from navnode.commands.ui import messages
from navnode.node.processes import LOG_PREFIX


def log_to_terminal() -> None:
    """Print warnings and errors on standard error, sparingly."""
    handler = ToTerminal()
    handler.setFormatter(ProcessFormatter())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextmanager
def only_errors_of(package: str) -> Iterator[None]:
    """Leave out a package's warnings, where a command says the same in its own words."""
    logger = logging.getLogger(package)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class ToTerminal(logging.Handler):
    """Prints log lines above the live table, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class ProcessFormatter(logging.Formatter):
    """Warnings begin with :data:`LOG_PREFIX`; lesser lines are in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return LOG_PREFIX + text if record.levelno >= logging.WARNING else f"({text})"


class RateLimit(logging.Filter):
    """Passes a few lines in five seconds from each place in the code; the next line says how many were left out."""

    _EVERY_S = 5.0
    _BURST = 5

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place = record.pathname, record.lineno
        since_s, shown, held = self._places.get(place, (record.created, 0, 0))
        if record.created - since_s > self._EVERY_S:
            if held:
                record.msg = f"{record.getMessage()} (and {held} more like this)"
                record.args = ()
            since_s, shown, held = record.created, 0, 0
        allowed = shown < self._BURST
        self._places[place] = since_s, shown + allowed, held + (not allowed)
        return allowed
