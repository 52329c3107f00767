"""OpenIGTLink: messages without sockets, and a thin server and client around them."""

from navnode.errors import LocalError, PeerError, WireError
from navnode.igtl.client import Client
from navnode.igtl.framing import Framer
from navnode.igtl.messages import (
    Capability,
    Image,
    Message,
    Point,
    PointElement,
    PolyData,
    Raw,
    StatusMessage,
    String,
    TrackedElement,
    TrackingData,
    Transform,
    decode,
    encode,
)
from navnode.igtl.server import Peer, Server

__all__ = [
    "Capability",
    "Client",
    "Framer",
    "Image",
    "LocalError",
    "Message",
    "Peer",
    "PeerError",
    "Point",
    "PointElement",
    "PolyData",
    "Raw",
    "Server",
    "StatusMessage",
    "String",
    "TrackedElement",
    "TrackingData",
    "Transform",
    "WireError",
    "decode",
    "encode",
]
