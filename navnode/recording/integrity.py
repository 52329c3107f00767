"""What state a session is in; the one place that says what damage is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from navnode.errors import DamagedError
from navnode.recording.reader import ContainerReader


class Integrity(StrEnum):
    """Whether a session is all there."""

    WHOLE = "whole"
    UNFINISHED = "unfinished"
    """Its recorder was killed: the end is missing, and of what comes before nothing."""
    DAMAGED = "damaged"
    """Bytes of it are missing or were changed."""


class Verdict(NamedTuple):
    """What state a session is in."""

    integrity: Integrity
    text: str
    """One line for people; '' of a whole one."""


def damage(file: ContainerReader, *, last: bool) -> str:
    """How a file is damaged; '' where it is not.

    Args:
        last: no file of the session follows, so that its recorder may have ended here.
    """
    if file.torn_at is None:
        return ""
    if file.index_damaged:
        what = "what it says of itself at its end is damaged"
    elif file.lost_bytes:
        what = "it is torn"
    elif not last:
        what = "its end is missing"
    else:
        return ""
    return f"{file.path}: damaged at byte {file.torn_at} of {file.size}: {what}; navnode recover repairs it"


def judged(files: Sequence[ContainerReader], failure: DamagedError | None = None) -> Verdict:
    """What state a session is in.

    Args:
        files: all of its files.
        failure: what stopped who has read it. Without one only what the files say of themselves is judged: whether
            the content of every chunk is as it was written, reading tells.
    """
    if failure is not None:
        return Verdict(Integrity.DAMAGED, str(failure))
    for file in files:
        if text := damage(file, last=file is files[-1]):
            return Verdict(Integrity.DAMAGED, text)
    if files and files[-1].torn_at is not None:
        text = f"{files[-1].path}: was not finished, as when a recorder is killed; all that it holds can be read"
        return Verdict(Integrity.UNFINISHED, text)
    return Verdict(Integrity.WHOLE, "")
