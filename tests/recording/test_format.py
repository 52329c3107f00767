"""What is in a session, and how it is read back."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.errors import RecordingError
from navnode.recording import format as session_format
from navnode.types import Volume, VolumeReady


def test_volumes_that_live_was_given_come_back():
    volume = Volume(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), np.eye(4), "v")
    ready = VolumeReady(volume, None, 7, 4, "SART", 12.5, "", 99)
    data = b"".join(bytes(part) for part in session_format.answer_parts(ready))
    back = session_format.answer_of(memoryview(data))
    assert np.array_equal(back.volume.voxels, volume.voxels) and (back.request, back.now_ns) == (7, 99)
    for torn in (data[:-1], data[:20], b"", data + b"x"):
        with pytest.raises(RecordingError):
            session_format.answer_of(memoryview(torn))
