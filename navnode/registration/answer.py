"""Answers the pipeline's registration requests one by one: in a thread of the node, or at once in a replay."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from navnode import geometry as g
from navnode.config import Config, matrix
from navnode.errors import ConfigError
from navnode.projector.native import default_threads
from navnode.registration.carm.stated import StatedGeometry, doubted, evidence
from navnode.registration.gradations import as_read
from navnode.registration.single import register_counts
from navnode.registration.smear import anticipate
from navnode.registration.tracking import ImageRegistration
from navnode.types import Array, Matrix, Registration, RegistrationRequest, Volume, invalid

if TYPE_CHECKING:  # loaded where a configuration has bones that move by themselves: few have, and a start waits for it
    from navnode.registration.bodies import Alone, Articulated

__all__ = ["FrameRegistration", "alone", "articulated"]

log = logging.getLogger(__name__)

_JUMP_MM = 1.5
"""From one image to the next: a tracker's noise, and a marker's slide, are less."""


def articulated(config: Config, ct: Volume) -> Articulated:
    """A configuration's CT and the bodies of it.

    Raises:
        ConfigError: a label map cannot be used, or there is no bone in a body; names the key.
    """
    from navnode.files.bodies import read_labels
    from navnode.registration.bodies import Articulated, pairs_of

    try:
        labels = read_labels([(Path(body.labels), body.label or 0) for body in config.bodies], ct)
        names = [body.name for body in config.bodies]
        pairs = pairs_of(names, [body.meets for body in config.bodies])
        return Articulated(ct, labels, names, config.registration.threads or None, pairs)
    except ConfigError as error:
        raise ConfigError(f"bodies: {error}") from error


def alone(config: Config) -> Alone:
    """A configuration's bones, each of a volume of its own.

    Raises:
        ConfigError: a volume cannot be used, or there is no bone in it; names the key.
    """
    from navnode.files.bodies import read_bone
    from navnode.registration.bodies import Alone, Body

    bodies = []
    for number, body in enumerate(config.bodies):
        try:
            bodies.append(Body.of(read_bone(Path(body.file)), None, body.name, 1))
        except ConfigError as error:
            raise ConfigError(f"bodies[{number}]: {error}") from error
    return Alone(
        bodies,
        [None if body.volume_from_body is None else matrix(body.volume_from_body) for body in config.bodies],
        config.registration.invalid_after_s,
        config.registration.threads or default_threads(),
    )


class FrameRegistration:
    """Registers frames, keeping a volume prepared and pixels chosen for the next frame.

    Args:
        volume: the first volume, or None.
        volume_id: its number in requests.

    Raises:
        ConfigError: as :func:`articulated`.
    """

    def __init__(self, config: Config, volume: Volume | None, volume_id: int) -> None:
        self._carm = config.carm.geometry
        self._isocentre_mm = config.carm.source_to_isocentre_mm
        self._threads = config.registration.threads or None
        self._articulated: Articulated | None = None
        self._registration: ImageRegistration | None = None
        self._stated = StatedGeometry()
        self._found: list[Registration] = []
        """In the last image, before others had their say."""
        self._volume_from_patient: Matrix | None = None
        """As the image before showed it."""
        self._alone = alone(config) if config.bones_alone else None
        if volume is not None and config.bodies:
            self._articulated = articulated(config, volume)
        self._volume, self._volume_id = volume, volume_id

    def begin(self) -> None:
        """Prepare the first volume; otherwise the first frame does."""
        if self._volume is not None and self._articulated is None:
            self._registration = ImageRegistration(self._volume, self._threads)

    def register(
        self, request: RegistrationRequest, volume: Volume | None
    ) -> tuple[Registration, tuple[Registration, ...]]:
        """Register a frame; INVALID with a reason if the computation fails.

        Args:
            volume: the pipeline's volume at the time of the request.

        Returns:
            Of the volume, and of every body.
        """
        start, frame = request.start_volume_from_carm, request.frame
        starts = [start, *(body.body_from_volume @ start for body in request.bodies)]
        try:
            if self._alone is not None:
                parts = self._alone.register(
                    frame.counts,
                    self._carm,
                    request.patient_from_carm,
                    self._isocentre_mm,
                    [None if body.lost else g.inverse(body.body_from_volume) for body in request.bodies],
                    request.epoch,
                    frame.timestamp_ns,
                )
                return parts[0], tuple(parts[1:])
            if self._articulated is not None:
                parts = self._articulated.register(
                    frame.counts,
                    self._carm,
                    starts,
                    self._isocentre_mm,
                    request.effort,
                    [body.lost for body in request.bodies],
                    frame.timestamp_ns,
                )
                return self._judged(parts)
            if request.volume_id != self._volume_id or self._registration is None:
                assert volume is not None
                self._registration, self._stated = ImageRegistration(volume, self._threads), StatedGeometry()
                self._volume_id = request.volume_id
            registration = register_counts(
                self._registration,
                frame.counts,
                self._carm,
                start,
                self._isocentre_mm,
                request.effort,
                frame.timestamp_ns,
                sparse_volume=request.sparse_volume,
            )
            return self._judged([registration])
        except Exception as error:  # any failure concerns this frame alone
            log.exception("frame %d could not be registered", frame.sequence)
            verdict = invalid(f"the frame could not be computed ({type(error).__name__})", frame.timestamp_ns)
            failed = [
                Registration(each, verdict, float("inf"), 0.0, np.eye(6) * 1e6, self._isocentre_mm, 0, 0.0)
                for each in starts
            ]
            return failed[0], tuple(failed[1:])

    def _judged(self, found: list[Registration]) -> tuple[Registration, tuple[Registration, ...]]:
        """What was found in an image, unless its predecessors contradict the C-arm's geometry."""
        self._found = found
        other = self._stated.verdict(self._carm)
        first, *others = (replace(each, validity=doubted(each.validity, other)) for each in found)
        return first, tuple(others)

    def prepare(self, request: RegistrationRequest) -> None:
        """Prepare for the next frame. Runs after every frame, so that results do not depend on the queue.

        Args:
            request: the one that was answered last.
        """
        found, self._found = self._found, []
        if not found or not found[0].validity.usable:
            return
        poses = [each.volume_from_carm for each in found]
        try:
            if self._registration is not None:
                self._registration.prepare(poses[0], self._isocentre_mm)
                anticipate(self._registration, self._isocentre_mm)
            if self._jumped(request.patient_from_carm, poses[0]):
                self._stated.change()
            if not request.sparse_volume and self._stated.wants(self._carm, poses[0], self._isocentre_mm):
                self._look(request.frame.counts, poses)
        except Exception:  # the next frame will prepare itself
            log.exception("the next frame could not be prepared")

    def _jumped(self, patient_from_carm: Matrix, volume_from_carm: Matrix) -> bool:
        """Whether an image shows the patient clearly elsewhere, as the markers have him, than the one before did."""
        before, self._volume_from_patient = self._volume_from_patient, volume_from_carm @ g.inverse(patient_from_carm)
        if before is None:
            return False
        anatomy_mm = g.transform(volume_from_carm, np.array([0.0, 0.0, self._isocentre_mm]))
        off = g.log(self._volume_from_patient @ g.inverse(before), anatomy_mm)
        return bool(np.linalg.norm(off[3:]) > _JUMP_MM)

    def _look(self, counts: Array, poses: list[Matrix]) -> None:
        """Find out what an image says of the C-arm's geometry, whatever those before it say."""
        if self._articulated is not None:
            image = self._articulated.as_read(counts, self._carm)
            self._stated.add(self._articulated.evidence(image, poses, self._isocentre_mm))
        elif self._registration is not None:
            image = as_read(self._registration.gradation, counts, self._carm)
            self._stated.add(evidence(self._registration, image, poses[0], self._isocentre_mm))
