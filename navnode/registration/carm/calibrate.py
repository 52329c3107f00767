"""From X-rays to the geometry of the C-arm that took them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from navnode.errors import ConfigError
from navnode.registration.carm.descent import Views
from navnode.registration.carm.readout import READOUTS, Shot, as_stated, image_of, turned_start
from navnode.registration.carm.starts import first_fit, together, widened
from navnode.registration.carm.verdict import Calibrated, judged, nothing
from navnode.registration.search import FAR, NEAR
from navnode.registration.tracking import ImageRegistration
from navnode.types import CArm, Matrix
from navnode.xray.counts import blank_reason

__all__ = ["calibrate"]

_TRIED_READOUTS = 3


def calibrate(
    registration: ImageRegistration,
    center_mm: Matrix,
    carm: CArm,
    shots: Sequence[Shot],
    *,
    joint: bool = False,
    search: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibrated:
    """Find one C-arm's focal length and principal point, how its pictures are read, and every view's pose.

    Args:
        center_mm: middle of the volume, (3,).
        carm: known roughly: focal length within 10 %, principal point within a tenth of the width.
        joint: the starts (one per shot) are correct relative to each other, as far as a tracker's are.
        search: the starts are far off.

    Raises:
        ConfigError: an image has another size than the C-arm.
    """
    started = time.perf_counter()
    if any(shot.counts.shape != (carm.height_px, carm.width_px) for shot in shots):
        raise ConfigError("the views have different sizes: one C-arm's geometry is found from pictures of one mode")
    blank = [blank_reason(shot.counts) for shot in shots]
    if any(blank):
        return nothing(carm, shots, center_mm, blank, started)
    images = {mirrored: [image_of(shot, carm, mirrored) for shot in shots] for mirrored in (False, True)}
    reach = widened(FAR if search else NEAR)
    searched = []
    parts, done = len(READOUTS) + _TRIED_READOUTS + 1, 0
    for readout in READOUTS:
        found = []
        for image, shot in zip(images[readout.mirrored], shots, strict=True):
            found.append(first_fit(registration, image, shot, readout, center_mm, reach))
            progress((done + len(found) / len(shots)) / parts)
        done += 1
        searched.append((sum(1 - fit.similarity for fit in found), readout, found))
    searched.sort(key=lambda each: each[0])
    settled = []
    for _, readout, found in searched[:_TRIED_READOUTS]:
        views = Views(images[readout.mirrored], as_stated(carm, readout.mirrored), center_mm)
        poses = [fit.volume_from_carm for fit in found]
        if joint and len(shots) > 1:
            starts = [turned_start(shot.starts[0], readout) for shot in shots]
            views, poses, at = together(views, poses, starts)
        else:
            at = views.carm
        deviation = None
        if views.joint:
            state = views.descended(registration.coarse, poses, at)
            poses, at, deviation = state.poses, state.carm, state.deviation
        state = views.descended(registration.middle, poses, at, deviation)
        settled.append((state.unexplained, readout, views, state, found))
        done += 1
        progress(done / parts)
    settled.sort(key=lambda each: each[0])
    (best, readout, views, state, alone), (second, other, *_) = settled[:2]
    state = views.descended(registration.fine, state.poses, state.carm, state.deviation)
    return judged(registration, shots, readout, views, state, alone, (second / max(best, 1e-9), other), started)
