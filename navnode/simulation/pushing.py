"""A virtual C-arm with a "send" button: its X-rays go to a DICOM store instead of out over OpenIGTLink."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

from navnode.clock import NS_PER_S
from navnode.igtl import Image
from navnode.types import CArm

__all__ = ["Pusher", "as_dicom"]

_TITLE, _CALLED = "CARM1", "NAVNODE"
_WAITING = 64
"""X-rays that may wait for a store; more are lost, and counted."""
_AGAIN_S = 1.0
_PATIENCE_S = 5.0


class Pusher:
    """Sends X-rays as XA objects, one by one, in a thread of its own; where there is no store, it tries again.

    Args:
        host, port: of the store.
        carm: as its maker says; stated in every header.
        say: receives a line when the store accepts, refuses or is lost.
    """

    def __init__(self, host: str, port: int, carm: CArm, say: Callable[[str], None]) -> None:
        self._host, self._port, self._carm, self._say = host, port, carm, say
        self._waiting: queue.Queue[Image | None] = queue.Queue(_WAITING)
        self._series = generate_uid()
        self._thread = threading.Thread(target=self._run, name="pushing", daemon=True)
        self._association: Any = None
        self._told = ""
        self.sent = self.lost = 0

    def __enter__(self) -> Pusher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while True:  # room for the end
            try:
                self._waiting.put_nowait(None)
                break
            except queue.Full:
                self._waiting.get_nowait()
        self._thread.join(2 * _PATIENCE_S)

    def push(self, image: Image) -> None:
        """Send an X-ray, (1, H, W), when its turn comes."""
        try:
            self._waiting.put_nowait(image)
        except queue.Full:
            self.lost += 1

    def _run(self) -> None:
        while (image := self._waiting.get()) is not None:
            if self._associated():
                status = self._association.send_c_store(as_dicom(image, self._carm, self._series))
                refused = status and int(status.Status) != 0
                self.sent, self.lost = self.sent + (not refused), self.lost + bool(refused)
                if refused:
                    self._tell(f"the store refuses X-rays ({int(status.Status):04X})")
            else:
                self.lost += 1
        if self._association is not None and self._association.is_established:
            self._association.release()

    def _associated(self) -> bool:
        """Whether there is a store; waits a moment where there is none."""
        if self._association is not None and self._association.is_established:
            return True
        from pynetdicom.ae import ApplicationEntity  # here: most rooms push nothing, and it is slow to load

        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # what matters is told in one line below
        entity = ApplicationEntity(_TITLE)
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = _PATIENCE_S
        entity.add_requested_context(XRayAngiographicImageStorage, ExplicitVRLittleEndian)
        self._association = entity.associate(self._host, self._port, ae_title=_CALLED)
        if self._association.is_established:
            self._tell(f"X-rays go to {_CALLED} at {self._host}:{self._port}")
            return True
        self._tell(f"no DICOM store accepts {_TITLE} as {_CALLED} at {self._host}:{self._port}; trying again")
        threading.Event().wait(_AGAIN_S)
        return False

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._say(f"{line}.")


def as_dicom(image: Image, carm: CArm, series: str) -> Dataset:
    """An X-ray, (1, H, W) uint16, as an object of a C-arm: XA, its moment to a microsecond, and what its metadata say.

    Args:
        carm: pixel spacing and distance for the header.
        series: its series' UID.
    """
    seconds, rest_ns = divmod(image.timestamp_ns, NS_PER_S)
    moment = datetime.fromtimestamp(seconds)  # headers say times of the room's clock on the wall
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = XRayAngiographicImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality, ds.SeriesInstanceUID = "XA", series
    ds.PatientName = ds.PatientID = "VIRTUAL"
    ds.AcquisitionDate = moment.strftime("%Y%m%d")
    ds.AcquisitionTime = f"{moment:%H%M%S}.{rest_ns // 1_000:06}"
    ds.ImagerPixelSpacing = [f"{spacing:.8g}" for spacing in reversed(carm.pixel_spacing_mm)]
    ds.DistanceSourceToDetector = f"{carm.source_to_detector_mm:.8g}"
    counts = np.ascontiguousarray(image.voxels[0], np.uint16)
    ds.Rows, ds.Columns = counts.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelIntensityRelationship = 1, "MONOCHROME2", "LIN"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = counts.tobytes()
    for key, value in image.metadata.items():
        setattr(ds, key, value)
    return ds
