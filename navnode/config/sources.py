"""Where X-rays and poses come from: ``[[sources]]``, told apart by ``type``.

The node itself hears OpenIGTLink alone. For every other type a *gateway* runs beside it, a process of its own that
serves what it takes in as OpenIGTLink on loopback.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from navnode.config.bases import Port, Section, check_address
from navnode.security.tls import Tls

__all__ = ["LOOPBACK", "DicomSource", "Rectangle", "Source", "SourceSection", "VideoSource"]

LOOPBACK = "127.0.0.1"

_Pixels = Annotated[int, msgspec.Meta(ge=0, le=16384)]
Rectangle = tuple[_Pixels, _Pixels, _Pixels, _Pixels]
"""x, y, width, height in pixels, from the upper left corner."""
_Delay = Annotated[float, msgspec.Meta(ge=0, le=10_000)]


class SourceSection(Section, frozen=True, tag_field="type", tag="openigtlink"):
    """An OpenIGTLink server that sends frames or poses."""

    port: Port
    host: str = LOOPBACK
    tls: Tls | None = None
    """Certificate, key and authorities (PEM files, relative to the configuration file), if the server uses TLS."""

    crc: Literal["required", "absent-allowed"] = "required"
    """Whether messages must carry their checksum. ``absent-allowed`` also takes a checksum field of 0, of servers that
    compute none: then damage on the way is not noticed. Any other wrong checksum ends the connection."""

    @property
    def client_tls(self) -> Tls | None:
        """What the node needs to connect."""
        return self.tls


class _Gateway(Section, frozen=True):
    """A source that a gateway takes in."""

    port: Port
    """Loopback port on which the gateway serves OpenIGTLink to the node."""
    delay_ms: _Delay = 0.0
    """From an exposure to its time of capture, or of arrival: taken off the stamps."""

    @property
    def host(self) -> str:
        """Where the gateway serves."""
        return LOOPBACK

    @property
    def client_tls(self) -> Tls | None:
        """What the node needs to connect: nothing, on loopback."""
        return None


_AeTitle = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\-]([A-Za-z0-9_.\- ]{0,14}[A-Za-z0-9_.\-])?$")]
"""PS3.5, 6.2: at most 16 characters, no backslash; spaces at the ends mean nothing."""


class DicomSource(_Gateway, frozen=True, kw_only=True, tag_field="type", tag="dicom"):
    """A storage SCP to which a C-arm sends its X-rays, and an archive a CT before surgery."""

    port: Port = 18947
    listen: str = LOOPBACK
    """Address on which DICOM is accepted."""
    listen_port: Port = 11112
    ae_title: _AeTitle = "NAVNODE"
    callers: Annotated[tuple[_AeTitle, ...], msgspec.Meta(max_length=64)] = ()
    """AE titles that may send; none: all. A title is a name that anyone can use, no protection: that is ``tls``."""
    tls: Tls | None = None
    """This side's certificate, key and the authorities of those that may send (PEM files)."""
    insecure: bool = False
    """Must be true to accept DICOM beyond loopback without TLS."""
    stamps: Literal["header", "arrival"] = "header"
    """When an X-ray was exposed: as it says, to a fraction of a second, or when it arrived; less ``delay_ms``."""
    store: str = ""
    """Folder for CT series, each in a folder of its own that ``volume.ct`` can name; empty: CTs are refused."""
    store_mb: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 8192
    """What that folder may hold."""
    associations: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Connections at a time."""
    pdu_kb: Annotated[int, msgspec.Meta(ge=4, le=1024)] = 128
    """Longest unit of transfer that is accepted."""
    memory_mb: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 1024
    """What all unfinished objects may hold together."""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 30.0
    """Silence after which a connection is ended, and the longest time for one unit of transfer."""

    def __post_init__(self) -> None:
        check_address(self.listen, self.insecure, self.tls)
        if self.port == self.listen_port:
            raise ValueError(f"port and listen_port are both {self.port}")


class VideoSource(_Gateway, frozen=True, kw_only=True, tag_field="type", tag="video"):
    """A C-arm's video output: a capture card, a network stream or a file."""

    device: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """Number or path of a capture device (``0``, ``/dev/video0``), ``rtsp://`` address, or path of a file."""
    port: Port = 18948
    standard: Literal["", "pal", "ntsc", "720p", "1080p"] = ""
    """Size and rate to ask a capture card for; empty: as it is."""
    width_px: _Pixels = 0
    height_px: _Pixels = 0
    """Size to ask a capture card for, in place of the standard's; 0: as it is."""
    rate_hz: Annotated[float, msgspec.Meta(ge=0, le=240)] = 0.0
    """Rate to ask a capture card for, or to play a file at; 0: as it is."""
    fourcc: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9 ]{4})?$")] = ""
    """Format of pixels to ask a capture card for, such as MJPG or YUYV."""
    interlace: Literal["none", "bob", "blend"] = "none"
    """Fields of an interlaced picture: ``bob`` makes each a picture of its own, ``blend`` takes their mean."""
    first_field: Literal["top", "bottom"] = "top"
    grey: Literal["luma", "mean", "red", "green", "blue"] = "luma"
    """What of a colour is its grey value."""
    region: Rectangle | None = None
    """Part of the picture that is the X-ray: x, y, width, height; none: all of it."""
    turned_deg: Literal[0, 90, 180, 270] = 0
    """Clockwise turn of the region that makes the picture the detector's."""
    mirrored: bool = False
    """Whether the display is mirrored, left and right exchanged; undone after the turn."""
    masks: Annotated[tuple[Rectangle, ...], msgspec.Meta(max_length=64)] = ()
    """Areas of the region with text, set to no counts."""
    field_px: (
        tuple[
            Annotated[float, msgspec.Meta(ge=-16384, le=16384)],
            Annotated[float, msgspec.Meta(ge=-16384, le=16384)],
            Annotated[float, msgspec.Meta(gt=0, le=16384)],
        ]
        | None
    ) = None
    """The round field within the region: x, y of its centre and its radius; what is outside is set to no counts."""
    black: Annotated[int, msgspec.Meta(ge=0, le=254)] = 0
    white: Annotated[int, msgspec.Meta(ge=1, le=255)] = 255
    """Grey values of no and of most radiation."""
    inverted: bool = False
    """Whether bone is shown bright: radiation is dark."""
    gamma: Annotated[float, msgspec.Meta(ge=0.1, le=10)] = 1.0
    """Grey values rise as counts to the power of 1 / ``gamma``. 1, with black 0, white 255 and not inverted: they are
    handed on as they are, 0 to 255; otherwise counts of 65535 at white are made of them."""
    held_noise: Annotated[float, msgspec.Meta(ge=0, le=64)] = 0.5
    """Noise of capture in grey levels (standard deviation): pictures that differ by no more are one exposure that is
    held. 0: only equal ones are."""
    picture_px: tuple[_Pixels, _Pixels] | None = None
    """Width and height of the whole picture that ``region``, ``field_px`` and ``masks`` are for: others are refused.
    None: any."""

    def __post_init__(self) -> None:
        if self.black >= self.white:
            raise ValueError("black must be below white")
        if self.region is not None and min(self.region[2:]) < 8:
            raise ValueError("region: x, y, width, height; at least 8 pixels along each side")
        if (self.width_px == 0) != (self.height_px == 0):
            raise ValueError("width_px and height_px: both or none")

    @property
    def is_stream(self) -> bool:
        """Whether ``device`` is an address."""
        return "://" in self.device

    @property
    def is_file(self) -> bool:
        """Whether ``device`` is a file rather than a capture device or an address."""
        return not (self.is_stream or self.device.isdigit() or self.device.startswith("/dev/"))

    @property
    def shown(self) -> str:
        """``device`` without the name, password and parameters of an address, which logs must not show."""
        return re.sub(r"://[^/]*@", "://", self.device).partition("?")[0] if self.is_stream else self.device


Source = SourceSection | DicomSource | VideoSource
