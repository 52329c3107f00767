"""With what a node computes on this machine."""

from __future__ import annotations

import msgspec

from navnode.config import ReconstructionSection
from navnode.projector import backend_name

__all__ = ["Backends", "backends_of"]


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """Names for people, and which model it is."""

    projector: str
    """Such as ``native avx512``."""
    reconstruction: str
    """Method, and what runs it."""
    model_sha256: str
    """'' where none is used."""


def backends_of(section: ReconstructionSection) -> Backends:
    """What a node of this configuration computes with, its worker on this machine included.

    Raises:
        ConfigError: the shipped model cannot be read.
    """
    from navnode.reconstruction.choice import Method, engine_name, model_hash  # here: a live node computes none of it

    method = Method(section.method)
    return Backends(projector=backend_name(), reconstruction=engine_name(method), model_sha256=model_hash(method))
