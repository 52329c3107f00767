"""What the fields of a request say of themselves, once: for the library, for its callers and for the command line.

A request is a frozen struct beside the function that answers it. :func:`option` and :func:`argument` describe a field;
its type, default and bounds stand in the struct. :mod:`navnode.commands.command` makes the command's options of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """How a field is presented on the command line; '' is as usual."""

    metavar: str = ""
    flag: str = ""
    """In place of the one that is made of the field's name."""
    panel: str = ""
    """Under which heading of the help."""
    is_argument: bool = False
    switches: Mapping[StrEnum, str] = {}
    """A flag for each of these values, and its help."""
    one_only: str = ""
    """What is said where two of them are given."""


def option(
    help_text: str,
    metavar: str = "",
    *,
    flag: str = "",
    panel: str = "",
    ge: float | None = None,
    le: float | None = None,
) -> msgspec.Meta:
    """A field that is an option, such as ``--out``; its help says what it does."""
    shown = Shown(metavar=metavar, flag=flag, panel=panel)
    return msgspec.Meta(description=help_text, ge=ge, le=le, extra={"shown": shown})


def argument(help_text: str, metavar: str) -> msgspec.Meta:
    """A field that is given by its place."""
    return msgspec.Meta(description=help_text, extra={"shown": Shown(metavar=metavar, is_argument=True)})


def switches(help_texts: Mapping[StrEnum, str], one_only: str) -> msgspec.Meta:
    """A field with a flag for each of its values, of which one may be given: ``--lockstep``, ``--as-consumed``."""
    return msgspec.Meta(extra={"shown": Shown(switches=help_texts, one_only=one_only)})


Threads = Annotated[int, option("Threads for computing; 0: all cores.", ge=0)]
Ct = Annotated[str, option("A CT that SimpleITK reads, a DICOM folder, 'sample' or 'procedural'.", "FILE")]
