"""What evidence is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import option
from navnode.errors import ConfigError

__all__ = ["EvidenceRequest"]


class EvidenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence of this installation, or the check of one that was given."""

    out: Annotated[Path, option("Write the evidence into this new folder.", "DIR")] | None = None
    calibrations: Annotated[tuple[Path, ...], option("Chart the calibrations below this folder; repeat.", "DIR")] = ()
    key: (
        Annotated[Path, option("Sign with this key; made if missing. Default: in this user's data folder.", "FILE")]
        | None
    ) = None
    minutes: Annotated[float, option("End what takes longer than this in all.", ge=1, le=120)] = 10.0
    traps: Annotated[int, option("Traps of the bench of trust; 0: none.", ge=0)] = 9
    check: Annotated[Path, option("Check the evidence in this folder instead of making some.", "DIR")] | None = None
    trusted: Annotated[Path, option("With --check: the public key that must have signed it.", "FILE")] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        if (self.out is None) == (self.check is None):
            raise ConfigError("give --out DIR to make evidence, or --check DIR to check some")
        if self.trusted is not None and self.check is None:
            raise ConfigError("--trusted goes with --check")
