"""Files to try the commands on: a drawn torso as a CT, X-rays of it, and where they were taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.pictures import write_picture
from navnode.files.views import ViewFile, write_views
from navnode.files.volumes import read_volume, write_volume
from navnode.offline.requests import SampleRequest
from navnode.projector import Projector
from navnode.simulation.sample_ct import ensure_procedural_ct
from navnode.simulation.scenario import carm_of_size, scenario_for
from navnode.xray.chain import XrayChain

__all__ = ["SampleReport", "sample"]

_ORBITAL_DEG = {"ap": 0.0, "lateral": 90.0, "oblique": 45.0}
_READ = "ap", "xray.png"
"""The picture that is written once more, under the name that `navnode read --help` calls it by."""


class SampleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    ct: str
    views: str
    images: list[str]


def sample(request: SampleRequest, progress: Callable[[float], None]) -> SampleReport:
    """Draw a torso, or read a CT, X-ray it from three sides, and write CT, pictures and views into a folder.

    ``stations.json`` has the same pictures without poses: only what a radiographer notes is said of each.

    Raises:
        ConfigError: the folder has files already, or cannot be written; or the CT cannot be read, or shows no bone.
    """
    out = request.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder")
    progress(0.0)
    if request.ct is not None:
        volume = replace(read_volume(request.ct, request.read_as()), name="CT")
    else:
        volume = replace(read_volume(ensure_procedural_ct()), name="drawn torso")
    carm, chain = carm_of_size(request.size), XrayChain()
    at_zero = scenario_for(volume).volume_from_carm(0.0)
    pivot_mm = scenario_for(volume).isocentre_mm
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    projector, views = Projector(volume, threads=request.threads or None), []
    for number, (name, orbital_deg) in enumerate(_ORBITAL_DEG.items()):
        turn = g.rotation_exp(np.array([0.0, 0.0, np.deg2rad(orbital_deg)]))  # about the body's long axis
        volume_from_carm = g.rigid(turn, pivot_mm - turn @ pivot_mm) @ at_zero
        counts = chain.expose(projector.render(carm, volume_from_carm), carm, 1.0, np.random.default_rng(number))
        write_picture(out / f"{name}.png", counts)
        if name == _READ[0]:
            write_picture(out / _READ[1], counts)
        views.append(ViewFile("", out / f"{name}.png", carm, volume_from_carm, None, number, name))
        progress((number + 1) / (len(_ORBITAL_DEG) + 1))
    write_views(out / "views.json", [replace(view, station="") for view in views])
    write_views(out / "stations.json", [replace(view, volume_from_carm=None) for view in views])
    write_volume(volume, out / "ct.nii.gz")
    progress(1.0)
    return SampleReport(
        ct=str(out / "ct.nii.gz"), views=str(out / "views.json"), images=[str(view.path) for view in views]
    )
