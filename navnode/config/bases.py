"""What sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec

from navnode.security.tls import Tls, is_loopback

__all__ = ["Name", "Port", "Section", "check_address"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration; its fields are the keys."""


def check_address(host: str, insecure: bool, tls: Tls | None = None) -> None:
    """Check that others reach an address only with the user's consent.

    Raises:
        ValueError: they do without it; says which keys give it.
    """
    if not (is_loopback(host) or tls or insecure):
        raise ValueError(
            f"host {host!r} is reachable from other machines, without encryption; set insecure = true to accept that, "
            "or tls, which consoles and DICOM have"
        )
