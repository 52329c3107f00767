"""The answers of a PlusServer, as functions of the requests; no sockets.

Follows the OpenIGTLink interface of PLUS (https://plustoolkit.github.io): STRING ``CMD_<id>`` is answered by STRING
``ACK_<id>``, COMMAND by RTS_COMMAND, both with XML; CLIENTINFO selects what a client receives.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import defusedxml
import defusedxml.ElementTree

from navnode.errors import NavError
from navnode.igtl.messages import Command, CommandReply, Message, String

__all__ = ["CommandError", "Commands", "Handler", "LONGEST_INTERVAL_MS", "Wanted", "contents", "log", "wanted_of"]

log = logging.getLogger(__name__)

_ASKS, _ANSWERS = "CMD_", "ACK_"
_REMEMBERED = 10
LONGEST_INTERVAL_MS = 60_000
_MAX_XML_BYTES = 1 << 16
_MAX_XML_ELEMENTS = 1_000


class CommandError(NavError):
    """A command failed; its text is the answer's message."""


Handler = Callable[[Mapping[str, str]], str]
"""Executes a command with its parameters; returns the answer's message. Raises :class:`CommandError`."""


@dataclass(frozen=True)
class Wanted:
    """Devices that a client wants; an empty set means all of that kind."""

    types: frozenset[str] = frozenset()
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Device names by message type."""
    tracking_interval_ms: int | None = None
    """None: TDATA was not mentioned."""
    changed_parts: bool = False
    """Only the changed part of a volume is wanted; navnode's extension of PLUS."""

    def __call__(self, kind: str, device: str) -> bool:
        """Whether the client wants messages of this type and device; STATUS always counts as wanted."""
        if kind == "STATUS":
            return True
        if self.types and kind not in self.types:
            return False
        names = self.names.get(kind)
        return not names or device in names


def contents(name: str, text: str) -> str:
    """What a command carries: its text, or for none the element that a PlusServer needs even then."""
    return text or f"<Command Name={quoteattr(name)}/>"


def wanted_of(text: str) -> Wanted:
    """What a CLIENTINFO asks for.

    Raises:
        CommandError: the text is not valid XML, or the interval is out of range.
    """
    root = _parse(text)
    types = frozenset(e.get("Type", "") for e in root.iterfind("MessageTypes/Message")) - {""}
    transforms = _names(root, "TransformNames/Transform")
    names = {
        "TRANSFORM": transforms,
        "POSITION": transforms,
        "STRING": _names(root, "StringNames/String"),
        "IMAGE": _images(root),
    }
    requested = root.get("TDATARequested", "").upper() == "TRUE"
    try:
        interval_ms = int(root.get("TDATAResolution", root.get("Resolution", "0")))
    except ValueError as error:
        raise CommandError("TDATAResolution is not a whole number of milliseconds") from error
    if not 0 <= interval_ms <= LONGEST_INTERVAL_MS:
        raise CommandError(f"TDATAResolution must be 0 to {LONGEST_INTERVAL_MS} ms")
    parts = root.get("ChangedParts", "").upper() == "TRUE"
    return Wanted(types, {k: v for k, v in names.items() if v}, interval_ms if requested else None, parts)


def _names(root: ElementTree.Element, path: str) -> frozenset[str]:
    return frozenset(e.get("Name", "") for e in root.iterfind(path)) - {""}


def _images(root: ElementTree.Element) -> frozenset[str]:
    """Image names; PLUS names an image with an embedded transform ``Name_Frame``."""
    names = set()
    for element in root.iterfind("ImageNames/Image"):
        name, frame = element.get("Name", ""), element.get("EmbeddedTransformToFrame", "")
        names |= {name, f"{name}_{frame}"} if name and frame else {name}
    return frozenset(names) - {""}


class Commands:
    """One client's commands; each is executed once, however often it is sent."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._done: deque[str] = deque(maxlen=_REMEMBERED)

    @staticmethod
    def is_command(message: Message) -> bool:
        """Whether a message is a command, as COMMAND or STRING."""
        return isinstance(message, Command) or (isinstance(message, String) and message.device.startswith(_ASKS))

    def answer(self, message: Message, timestamp_ns: int) -> Message | None:
        """Execute a command and answer it; None if it was answered before."""
        if isinstance(message, Command):
            if self._repeated(str(message.command_id)):
                return None
            succeeded, text = self._execute(message.name, message.text)
            return CommandReply(
                device=message.device,
                timestamp_ns=timestamp_ns,
                command_id=message.command_id,
                name=message.name,
                text=_xml_reply(succeeded, text),
                metadata={"Status": "SUCCESS" if succeeded else "FAIL", "Message": text},
            )
        assert isinstance(message, String)
        number = message.device.removeprefix(_ASKS)
        if self._repeated(number):
            return None
        succeeded, text = self._execute("", message.text)
        return String(device=_ANSWERS + number, timestamp_ns=timestamp_ns, text=_xml_reply(succeeded, text))

    def _repeated(self, number: str) -> bool:
        if number in self._done:
            log.debug("command %s was sent again", number)
            return True
        self._done.append(number)
        return False

    def _execute(self, name: str, text: str) -> tuple[bool, str]:
        try:
            parameters = dict(_parse(text).attrib) if text.strip() else {}
            name = parameters.pop("Name", name)
            handler = self._handlers.get(name)
            if handler is None:
                known = ", ".join(sorted(self._handlers)) or "none"
                raise CommandError(f"unknown command {name!r}; known: {known}")
            return True, str(handler(parameters) or "")
        except CommandError as error:
            return False, str(error)
        except Exception as error:  # a bug here must affect this command alone
            log.exception("command %s", name)
            return False, f"internal error ({type(error).__name__})"


def _xml_reply(succeeded: bool, text: str) -> str:
    element = ElementTree.Element("CommandReply", Status="SUCCESS" if succeeded else "FAIL", Message=text)
    return ElementTree.tostring(element, encoding="unicode")


def _parse(text: str) -> ElementTree.Element:
    """The root of a short XML text that declares no entities."""
    if len(text) > _MAX_XML_BYTES:
        raise CommandError("the command's XML is too long")
    try:
        root: ElementTree.Element = defusedxml.ElementTree.fromstring(text, forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        raise CommandError("the command's XML declares entities") from error
    except ElementTree.ParseError as error:
        raise CommandError(f"the command is not valid XML ({error})") from error
    if sum(1 for _ in root.iter()) > _MAX_XML_ELEMENTS:
        raise CommandError("the command's XML has too many elements")
    return root
