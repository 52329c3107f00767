"""Requests for gateways by hand."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

from navnode import config
from navnode.config import DicomSource, VideoSource
from navnode.config.fields import option
from navnode.errors import ConfigError

__all__ = ["CArmSetupRequest", "DicomGatewayRequest", "VideoGatewayRequest"]

_Port = Annotated[int, option("Port on which OpenIGTLink is served, on loopback.", ge=1, le=65535)]
_Name = Annotated[str, option("Device name of the pictures.", "NAME")]
_Seconds = Annotated[float, option("Stop after this many seconds, and report.", ge=0.1)]
_Delay = Annotated[float, option("Taken off the stamps: from exposure to capture or arrival.", "MS", ge=0, le=10_000)]
_SECURITY = "Security"
_CURVE, _PICTURE = "From grey values to counts", "Part of the picture"


class Stamps(StrEnum):
    """See :attr:`navnode.config.DicomSource.stamps`."""

    HEADER = "header"
    ARRIVAL = "arrival"


class Interlace(StrEnum):
    """See :attr:`navnode.config.VideoSource.interlace`."""

    NONE = "none"
    BOB = "bob"
    BLEND = "blend"


class DicomGatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Take X-rays in by DICOM, and serve them as OpenIGTLink."""

    port: _Port = 18947
    device: _Name = "XRay"
    listen: Annotated[str, option("Address on which DICOM is accepted.", "HOST")] = "127.0.0.1"
    listen_port: Annotated[int, option("Port on which DICOM is accepted.", ge=1, le=65535)] = 11112
    ae_title: Annotated[str, option("This side's AE title.", "TITLE")] = "NAVNODE"
    callers: Annotated[
        tuple[str, ...],
        option("AE title that may send, several times for several.", "TITLE", flag="--caller"),
    ] = ()
    stamps: Annotated[Stamps, option("When an X-ray was exposed: as it says, or when it arrived.")] = Stamps.HEADER
    delay_ms: _Delay = 0.0
    store: Annotated[Path, option("Folder for CT series; without it CTs are refused.", "DIR")] | None = None
    seconds: _Seconds | None = None
    tls_certificate: Annotated[Path, option("This side's certificate.", "PEM", panel=_SECURITY)] | None = None
    tls_key: Annotated[Path, option("Its private key.", "PEM", panel=_SECURITY)] | None = None
    tls_authorities: Annotated[Path, option("Authorities of those that may send.", "PEM", panel=_SECURITY)] | None = (
        None
    )
    insecure: Annotated[bool, option("Accept DICOM beyond loopback without TLS.", panel=_SECURITY)] = False

    def source(self) -> DicomSource:
        """What the gateway takes in.

        Raises:
            ConfigError: a value is not accepted; names it.
        """
        tls = (self.tls_certificate, self.tls_key, self.tls_authorities)
        if any(tls) and not all(tls):
            raise ConfigError("--tls-certificate, --tls-key and --tls-authorities: all three or none")
        names = ("certificate", "key", "authorities")
        secured = {"tls": dict(zip(names, map(str, tls), strict=True))} if all(tls) else {}
        return config.convert(
            {
                **secured,
                "type": "dicom",
                "port": self.port,
                "listen": self.listen,
                "listen_port": self.listen_port,
                "ae_title": self.ae_title,
                "callers": list(self.callers),
                "stamps": str(self.stamps),
                "delay_ms": self.delay_ms,
                "store": str(self.store or ""),
                "insecure": self.insecure,
            },
            DicomSource,
            "arguments",
        )


class VideoGatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Take a video in, and serve it as OpenIGTLink."""

    input: Annotated[str, option("Number or path of a capture device, rtsp:// address, or file.", "DEVICE")]
    port: _Port = 18948
    device: _Name = "XRay"
    preset: Annotated[Path, option("Settings of a C-arm, from `navnode carm setup`.", "FILE.toml")] | None = None
    standard: Annotated[str, option("Ask a capture card for pal, ntsc, 720p or 1080p.")] | None = None
    rate_hz: Annotated[float, option("Ask for, or play a file at, so many pictures a second.", ge=0, le=240)] | None = (
        None
    )
    interlace: Annotated[Interlace, option("Take fields apart (bob) or their mean (blend).")] | None = None
    delay_ms: _Delay | None = None
    held_noise: Annotated[float, option("Noise of capture in grey levels.", ge=0, le=64)] | None = None
    region: Annotated[str, option("The X-ray's part of the picture.", "X,Y,W,H", panel=_PICTURE)] | None = None
    turned_deg: Annotated[int, option("Clockwise turn: 0, 90, 180, 270.", panel=_PICTURE)] | None = None
    mirrored: Annotated[bool, option("Left and right are exchanged; undo that.", panel=_PICTURE)] = False
    grey: Annotated[str, option("luma, mean, red, green or blue.", panel=_CURVE)] | None = None
    gamma: Annotated[float, option("Grey values rise as counts to the power of 1/gamma.", panel=_CURVE)] | None = None
    black: Annotated[int, option("Grey value of no radiation.", panel=_CURVE)] | None = None
    white: Annotated[int, option("Grey value of most radiation.", panel=_CURVE)] | None = None
    inverted: Annotated[bool, option("Radiation is dark.", panel=_CURVE)] = False
    seconds: _Seconds | None = None

    def source(self) -> VideoSource:
        """What the gateway takes in.

        Raises:
            ConfigError: a value is not accepted; names it.
        """
        own = {
            name: str(value) if isinstance(value, StrEnum) else value
            for name in VideoSource.__struct_fields__
            if (value := getattr(self, name, None)) is not None and value is not False
        }
        own |= {"type": "video", "device": self.input, "port": self.port}
        if self.region is not None:
            own["region"] = _numbers(self.region)
        given: dict[str, Any] = config.preset(self.preset) if self.preset else {}
        return config.convert(config.over_preset(given, own), VideoSource, "arguments")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--region {text}: X,Y,W,H are whole numbers") from error


class CArmSetupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Find out how a C-arm shows X-rays, and write its preset."""

    input: Annotated[str, option("Number or path of a capture device, rtsp:// address, or file.", "DEVICE")]
    out: Annotated[Path, option("Write the preset here.", "FILE.toml")]
    picture: Annotated[Path, option("Draw what was found into a picture.", "FILE.png")] | None = None
    seconds: Annotated[float, option("Watch for so long.", ge=2, le=600)] = 60.0
    standard: Annotated[str, option("Ask a capture card for pal, ntsc, 720p or 1080p.")] = ""
    like: Annotated[Path, option("X-ray of the same scene, as the detector has it (DICOM).", "FILE")] | None = None
    inverted: Annotated[bool, option("Bone is shown bright, where the noise does not say so.")] = False

    def source(self) -> VideoSource:
        """What to watch.

        Raises:
            ConfigError: a value is not accepted; names it.
        """
        asked = {"type": "video", "device": self.input, "standard": self.standard}
        return config.convert(asked, VideoSource, "arguments")
