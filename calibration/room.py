"""What a room must have calibrated: which routines its configuration needs, in which order, and what is kept so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs

from navnode.clock import now_ns
from navnode.config import Config, ToolSection, matrix
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts, whole
from navnode.files.artifacts import (
    CARM,
    FLATFIELD,
    FLEX,
    HANDEYE,
    IMAGE_LAG,
    PATIENT,
    PHANTOM,
    PIVOT,
    SPIN,
    TOOL,
    Artifact,
    Kind,
)
from navnode.loop import calibrations
from navnode.types import Array

from .kept import why_not_usable

__all__ = ["Kept", "Lack", "MEASUREMENTS", "Need", "Room", "State", "Step", "Used"]

MEASUREMENTS: dict[str, tuple[Kind[Any], ...]] = {
    "spheres": (TOOL,),
    "tip": (PIVOT,),
    "axis": (SPIN,),
    "shots": (CARM, FLEX, HANDEYE),
    "sweep": (IMAGE_LAG,),
    "flat": (FLATFIELD,),
    "points": (PATIENT,),
    "targets": (PHANTOM,),
}
"""What the operator does, in the order in which it is done -> the routines that the same samples serve."""

_SKIPPED = "skipped.json"


class Need(StrEnum):
    """How much a room needs a calibration."""

    NEEDED = "needed"
    """Nothing stands in for it."""
    ADVISED = "advised"
    """The configuration states a value, or an assumption stands in for it."""
    OPTIONAL = "optional"


class State(StrEnum):
    """What is known of a calibration."""

    MISSING = "missing"
    KEPT = "kept"
    REFUSED = "refused"
    """It is there, and may not be used: expired, of another device, or made from files that have changed."""


class Used(StrEnum):
    """From when on a node goes by a calibration."""

    NOW = "now"
    NEXT_START = "next_start"
    NEVER = "never"
    """The configuration names neither this file nor a folder of calibrations."""
    VERIFIES = "verifies"
    """No node loads it: it verifies, or serves the tracker."""


class Lack(msgspec.Struct, frozen=True):
    """What must be there before something can be measured."""

    code: str
    """``key``: a key of the configuration is not set; ``file``: a file is not there; ``first``: another calibration."""
    what: str


@dataclass(frozen=True)
class Step:
    """One calibration that a room may have."""

    kind: Kind[Any]
    measurement: str
    """Of :data:`MEASUREMENTS`."""
    tool: str
    """Of calibrations of a tool; otherwise ''."""
    need: Need
    path: Path
    """Where it is kept."""

    @property
    def name(self) -> str:
        """Its name among the room's steps: ``carm``, ``pivot-Drill``."""
        return f"{self.kind.name}-{self.tool}" if self.tool else self.kind.name


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a step."""

    state: State
    used: Used
    reason: str = ""
    """Why it is refused."""
    skipped: bool = False
    artifact: Artifact[Any] | None = None
    """None for images, which are no documents."""

    @property
    def settled(self) -> bool:
        """Whether nothing remains to be done."""
        return self.state is State.KEPT or self.skipped


class Room:
    """The calibrations of one configuration.

    Args:
        config: whose kept calibrations are named, see :func:`navnode.loop.calibrations.with_kept`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = (
            Path(config.calibration.folder)
            if config.calibration.folder
            else platformdirs.user_data_path("navnode") / "calibrations"
        )
        self._named = calibrations.files(config)
        self.steps = tuple(self._steps())

    def step(self, name: str) -> Step:
        """The step of a name.

        Raises:
            ConfigError: there is none; names those that there are.
        """
        for each in self.steps:
            if each.name == name:
                return each
        raise ConfigError(f"{name!r} is no step of this room; there are: {', '.join(s.name for s in self.steps)}")

    def together(self, step: Step) -> tuple[Step, ...]:
        """The steps that the same samples serve, in the order in which they are judged."""
        return tuple(each for each in self.steps if (each.measurement, each.tool) == (step.measurement, step.tool))

    def _steps(self) -> Iterator[Step]:
        for measurement, kinds in MEASUREMENTS.items():
            if kinds[0].of_tool or kinds[0] is TOOL:
                for tool in self.config.tools:
                    for kind in kinds:
                        yield self._step(kind, measurement, tool)
            else:
                for kind in kinds:
                    yield self._step(kind, measurement, None)

    def _step(self, kind: Kind[Any], measurement: str, tool: ToolSection | None) -> Step:
        name = "" if tool is None else tool.name
        key = f"{name}.{kind.key}" if kind.of_tool else kind.key
        named = self._named.get(key) if kind.key else None
        own = self.folder / (kind.file_name(name) if tool is not None else kind.file_name())
        return Step(kind, measurement, name, self._need(kind, tool), Path(named) if named else own)

    def _need(self, kind: Kind[Any], tool: ToolSection | None) -> Need:
        section = self.config.calibration
        if kind is TOOL:
            return Need.ADVISED if section.spheres else Need.OPTIONAL
        if kind is FLATFIELD:
            return Need.OPTIONAL
        if kind is PATIENT and not self.config.volume.ct:
            return Need.OPTIONAL
        if kind is PHANTOM and not section.targets:
            return Need.OPTIONAL
        nominal = {
            PIVOT.name: tool is not None and not _is_identity(tool.marker_from_tooltip),
            SPIN.name: tool is not None and not _is_identity(tool.marker_from_tooltip),
            HANDEYE.name: not _is_identity(section.carm_from_marker),
            PATIENT.name: not _is_identity(self.config.registration.volume_from_patient_start),
        }
        return Need.ADVISED if nominal.get(kind.name, True) else Need.NEEDED

    # --- what is there ----------------------------------------------------------------------------------------------

    def kept(self, step: Step) -> Kept:
        """What is kept of a step, judged now."""
        skipped = step.name in self.skipped()
        if not step.path.is_file():
            return Kept(State.MISSING, self.used(step, 0), skipped=skipped)
        device, mode, case = self.whose(step)
        try:
            reason = why_not_usable(step.path, now_ns(), device=device, mode=mode, case=case)
            artifact = artifacts.read(step.path) if step.path.suffix == ".json" else None
        except CalibrationError as error:
            return Kept(State.REFUSED, self.used(step, 0), str(error), skipped)
        if artifact is not None and artifact.kind not in step.kind.names:
            reason = f"it is a calibration of kind {artifact.kind!r}, not {step.kind.name!r}"
        elif artifact is not None and self._of_no_known_case(step, artifact):
            reason = artifacts.OF_ANOTHER_CASE
        created_ns = artifact.created_ns if artifact is not None else step.path.stat().st_mtime_ns
        state = State.REFUSED if reason else State.KEPT
        return Kept(state, self.used(step, created_ns), reason, skipped, artifact)

    def whose(self, step: Step) -> tuple[str, str, str]:
        """Device, detector mode and case that a step's calibration belongs to; '': none in particular."""
        section = self.config.calibration
        of_carm = not step.tool and not step.kind.of_case
        device, mode = (section.device, section.mode) if of_carm else (step.tool, "")
        return device, mode, self._case if step.kind.of_case else ""

    def _of_no_known_case(self, step: Step, artifact: Artifact[Any]) -> bool:
        """Whether a node leaves it out; one that the configuration names is judged by its own case alone."""
        return step.kind.of_case and step.path.parent == self.folder and not (self._case and artifact.case)

    @cached_property
    def _case(self) -> str:
        return calibrations.case_of(self.config)

    def used(self, step: Step, created_ns: int) -> Used:
        """From when on a node goes by what is kept of a step, made at this time."""
        if not step.kind.key:
            return Used.VERIFIES
        key = f"{step.tool}.{step.kind.key}" if step.kind.of_tool else step.kind.key
        if key not in self._named and not self.config.calibration.folder:
            return Used.NEVER
        began_ns = self.config.calibration.as_of_ns
        return Used.NOW if key in self._named and 0 < created_ns <= began_ns else Used.NEXT_START

    def tip_mm(self, tool: str) -> Array:
        """A tool's tip (3,), tool frame: as calibrated, otherwise as configured.

        Raises:
            CalibrationError: its calibration may not be used.
        """
        step = self.step(f"{PIVOT.name}-{tool}")
        if step.path.is_file():
            return np.array(artifacts.usable(step.path, PIVOT, now_ns(), device=tool).result.tip_mm)
        return matrix(self._tool(tool).marker_from_tooltip)[:3, 3]

    def volume_from_patient(self) -> Array:
        """The patient's pose, 4x4, as calibrated.

        Raises:
            CalibrationError: its calibration is missing, or may not be used.
        """
        found = artifacts.usable(self.step(PATIENT.name).path, PATIENT, now_ns(), case=self._case)
        return np.array(found.result.volume_from_patient)

    def device_of(self, tool: str) -> str:
        """The device that sends a tool's poses."""
        return self._tool(tool).device

    def _tool(self, name: str) -> ToolSection:
        for tool in self.config.tools:
            if tool.name == name:
                return tool
        raise ConfigError(f"unknown tool {name!r}; there are: {', '.join(t.name for t in self.config.tools) or 'none'}")

    def lacks(self, step: Step, tool: str) -> list[Lack]:
        """What must be there before a step can be measured.

        Args:
            tool: the tool that touches points.
        """
        section, lacking = self.config.calibration, []
        key = {"spheres": "spheres", "shots": "phantom", "points": "points", "targets": "targets"}.get(step.measurement)
        if key is not None:
            value = getattr(section, key)
            if not value:
                lacking.append(Lack("key", f"calibration.{key}"))
            elif key != "spheres" and not Path(value).is_file():
                lacking.append(Lack("file", value))
        if step.measurement in ("points", "targets") and not self.config.tools:
            lacking.append(Lack("key", "tools"))
        elif step.measurement in ("points", "targets"):
            tip = self.step(f"{PIVOT.name}-{tool}")
            if tip.need is Need.NEEDED and not tip.path.is_file():
                lacking.append(Lack("first", tip.name))
        if step.measurement == "targets" and not self.step(PATIENT.name).path.is_file():
            lacking.append(Lack("first", PATIENT.name))
        return lacking

    # --- what the operator leaves out --------------------------------------------------------------------------------

    def skipped(self) -> set[str]:
        """Names of steps that the operator chose to leave out."""
        try:
            return set(msgspec.json.decode((self.folder / _SKIPPED).read_bytes(), type=list[str]))
        except (OSError, msgspec.DecodeError):
            return set()

    def skip(self, step: Step, skipped: bool = True) -> None:
        """Remember whether the operator leaves a step out.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        names = self.skipped() | {step.name} if skipped else self.skipped() - {step.name}
        if names != self.skipped():
            self.make_folder(self.folder)
            whole.write_whole(self.folder / _SKIPPED, msgspec.json.encode(sorted(names)))

    @staticmethod
    def make_folder(folder: Path) -> None:
        """Make a folder of calibrations, unless it is there.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error


def _is_identity(rows: Any) -> bool:
    return np.array_equal(matrix(rows), np.eye(4))
