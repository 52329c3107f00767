"""Requests for jigs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import argument, option
from navnode.errors import ConfigError
from navnode.jig.layout import BEAD_MM, LENGTH_MM, LIMB_MM

__all__ = ["JigCheckRequest", "JigMakeRequest"]


class JigMakeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Lay a jig out, to be built."""

    out: Annotated[Path, option("Folder for the jig's file, parts and drawing.", "DIR")]
    limb_mm: Annotated[float, option("Diameter of the thickest limb.", "MM", ge=LIMB_MM[0], le=LIMB_MM[1])] = 140.0
    length_mm: Annotated[float, option("Length along the limb.", "MM", ge=LENGTH_MM[0], le=LENGTH_MM[1])] = 240.0
    bead_mm: Annotated[float, option("Diameter of the beads.", "MM", ge=BEAD_MM[0], le=BEAD_MM[1])] = 3.0
    name: Annotated[str, option("Name; default: made of the sizes.", "NAME")] = ""
    seed: Annotated[int, option("Another number makes a jig that is not taken for this one.", ge=0)] = 0


class JigCheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Measure a built jig."""

    jig: Annotated[Path, argument("The jig as laid out, navnode/jig/1.", "JIG.json")]
    pictures: Annotated[tuple[Path, ...], argument("X-rays of it from all sides, 4 or more.", "PICTURES")]
    out: Annotated[Path | None, option("Write the jig as measured.", "MEASURED.json")] = None
    distance: Annotated[str, option("A distance of two beads' middles, by a caliper: U1a:U1g:181.32.", "ID:ID:MM")] = ""

    def __post_init__(self) -> None:
        """Raise ConfigError if the distance is none."""
        self.known_distance()

    def known_distance(self) -> tuple[str, str, float] | None:
        """The two beads and their distance in mm.

        Raises:
            ConfigError: the text has another form.
        """
        if not self.distance:
            return None
        first, _, rest = self.distance.partition(":")
        second, _, number = rest.partition(":")
        try:
            value_mm = float(number)
        except ValueError:
            value_mm = 0.0
        if not (first and second and first != second and 1.0 <= value_mm <= 1000.0):
            raise ConfigError(f"--distance {self.distance}: must be ID:ID:MM, two beads and 1 to 1000 mm")
        return first, second, value_mm
