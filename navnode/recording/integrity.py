"""Judges whether a session is whole, unfinished or damaged; damage is defined here alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from navnode.errors import DamagedError
from navnode.recording.format import FOLLOWED
from navnode.recording.reader import ContainerReader

__all__ = ["Integrity", "Verdict", "damage", "judged"]


class Integrity(StrEnum):
    """Whether a session is complete."""

    WHOLE = "whole"
    UNFINISHED = "unfinished"
    """Its recorder was killed: the end is missing, but nothing before it."""
    DAMAGED = "damaged"
    """Bytes are missing or changed."""


class Verdict(NamedTuple):
    """A session's integrity."""

    integrity: Integrity
    text: str
    """One line that explains it; '': the session is whole."""


def damage(file: ContainerReader, *, last: bool) -> str:
    """How a file is damaged; '': it is not.

    Args:
        last: whether it is the last file of the session, where its recorder may have been killed.
    """
    if file.torn_at is None:
        return ""
    if file.index_damaged:
        what = "its index is damaged"
    elif file.lost_bytes:
        what = "it is torn"
    elif not last:
        what = "its end is missing"
    else:
        return ""
    return f"{file.path}: damaged at byte {file.torn_at} of {file.size}: {what}; navnode recover repairs it"


def judged(files: Sequence[ContainerReader], failure: DamagedError | None = None) -> Verdict:
    """Judge a session's integrity.

    Args:
        files: all of its files.
        failure: the error that ended reading it. Without one, only indexes and record lengths are judged: damage inside
            chunks shows when they are read.
    """
    if failure is not None:
        return Verdict(Integrity.DAMAGED, str(failure))
    for file in files:
        if text := damage(file, last=file is files[-1]):
            return Verdict(Integrity.DAMAGED, text)
    if files and FOLLOWED in files[-1].metadata and _from_its_beginning(files):
        text = f"{files[-1].path}: damaged: the session goes on in another file, which is missing"
        return Verdict(Integrity.DAMAGED, text)
    if files and files[-1].torn_at is not None:
        text = f"{files[-1].path}: was not finished, as when a recorder is killed; everything up to then can be read"
        return Verdict(Integrity.UNFINISHED, text)
    return Verdict(Integrity.WHOLE, "")


def _from_its_beginning(files: Sequence[ContainerReader]) -> bool:
    """Whether these are a session's files from the first on, and not one of the others by itself."""
    about = files[0].metadata.get("navnode", {})
    return bool(about.get("session")) and about.get("part", "0") == "0"
