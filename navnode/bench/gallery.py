"""Pictures of what reconstruction methods make: a PNG, or a report in HTML with all figures."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType

from navnode.bench.volumes import PartFigures, ReconstructionReport, VolumeFigures
from navnode.errors import ConfigError
from navnode.files.report import STYLE, table
from navnode.files.whole import write_whole
from navnode.types import Array, FloatArray, View

__all__ = ["Gallery", "Slice"]

_HTML = (".html", ".htm")
_GREY_HU = (-400, 800)
_XRAYS = 2
"""X-rays shown of each body."""
_TRUE, _FOUND = "#ffd166", "#ef476f"
"""Outlines of true bone and of the bone that a method found."""
_COLUMNS = (
    ("PSNR dB", "psnr_db", 1),
    ("SSIM", "ssim", 3),
    ("Bone Dice", "dice_fixed", 3),
    ("at best threshold", "dice", 3),
    ("surface mm", "assd_mm", 1),
    ("in 95 % interval", "within_95", 3),
    ("of them in bone", "within_95_bone", 3),
    ("ms", "elapsed_ms", 0),
)


@dataclass(frozen=True)
class Slice:
    """The middle coronal slice of a volume, seen from the front, head up."""

    hu: FloatArray
    """(k, i), HU."""
    bone: Array
    """(k, i), whether a voxel is taken for bone."""

    @classmethod
    def of(cls, hu: FloatArray, bone: Array) -> Slice:
        """The slice of a volume and its bone, (k, j, i)."""
        middle = hu.shape[1] // 2
        return cls(hu[::-1, middle, ::-1], bone[::-1, middle, ::-1])


@dataclass(frozen=True)
class _Row:
    title: str
    xrays: list[FloatArray]
    slices: dict[str, Slice]


class Gallery:
    """Collects pictures while bodies are measured.

    Args:
        path: a PNG for the pictures alone, or HTML for one self-contained file with tables and pictures.

    Raises:
        ConfigError: the extension is another one, or matplotlib is missing.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in (".png", *_HTML):
            raise ConfigError(f"{path}: a report is .html, a picture .png")
        if importlib.util.find_spec("matplotlib") is None:
            raise ConfigError("pictures need matplotlib: pip install 'navnode[bench]'")
        self._path = path
        self._rows: list[_Row] = []

    def add(self, title: str, views: Sequence[View], slices: dict[str, Slice]) -> None:
        """Add a body seen in some views: slices by method, the first being the CT's."""
        self._rows.append(_Row(title, [view.line_integrals for view in views[:_XRAYS]], slices))

    def write(self, report: ReconstructionReport) -> None:
        """Write the file.

        Raises:
            ConfigError: it cannot be written.
        """
        page = self._page(report).encode() if self._path.suffix.lower() in _HTML else _drawn(self._rows)
        write_whole(self._path, page)

    def _page(self, report: ReconstructionReport) -> str:
        parts = [
            "<!doctype html><meta charset=utf-8><title>navnode bench reconstruction</title>",
            f"<style>{STYLE} img {{ max-width: 100% }}</style><h1>Reconstruction from a few X-rays</h1>",
            f"<p>Medians over the bodies of a group; {report.size} voxels of {report.spacing_mm:g} mm along each axis, "
            f"scored where all views see; {report.threads} threads. Bone is solid, marrow included. <em>Bone Dice</em> "
            "is at the method's own threshold (200 HU for methods that state no bone), <em>at best threshold</em> at "
            "the one that suits each case best; surface distances are at the own threshold where there is one.</p>",
        ]
        for group, by_count in report.groups.items():
            parts.append(f"<h2>{html.escape(group)} ({report.count[group]})</h2>")
            rows = [
                (count, name, *(_shown(figures, key, digits) for _, key, digits in _COLUMNS))
                for count, methods in by_count.items()
                for name, figures in methods.items()
            ]
            parts.append(table(("views", "method", *(title for title, _, _ in _COLUMNS)), rows))
            head = (
                "views",
                "reader: thickness mm",
                "outline Dice",
                "lift of true thickness",
                "of read thickness",
                "lung Dice",
            )
            keys = (
                ("thickness_error_mm", 1),
                ("outline_dice", 3),
                ("lift_true_dice", 3),
                ("lift_read_dice", 3),
                ("lung_dice", 3),
            )
            of_parts = report.parts[group].items()
            parts.append(table(head, [(count, *(_shown(each, *key) for key in keys)) for count, each in of_parts]))
        parts.append(
            "<h2>Pictures</h2><p>X-rays, then the middle coronal slice. Outlines: "
            f"<b style='color:{_TRUE}'>true bone</b>, <b style='color:{_FOUND}'>bone found</b>.</p>"
        )
        for row in self._rows:
            encoded = base64.b64encode(_drawn([row])).decode()
            parts.append(f"<h3>{html.escape(row.title)}</h3><img alt='slices' src='data:image/png;base64,{encoded}'>")
        return "\n".join(parts)


def _shown(figures: VolumeFigures | PartFigures, key: str, digits: int) -> str:
    value: float | UnsetType = getattr(figures, key)
    return "" if value is UNSET else f"{value:.{digits}f}"


def _drawn(rows: Sequence[_Row]) -> bytes:
    """A PNG with a row of pictures for each row."""
    from matplotlib.figure import Figure  # here: an optional package

    columns = max(len(row.xrays) + len(row.slices) for row in rows)
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, places in zip(rows, axes, strict=True):
        for place in places:
            place.axis("off")
        for xray, place in zip(row.xrays, places, strict=False):
            place.imshow(np.nan_to_num(xray), cmap="gray_r")
        truth = next(iter(row.slices.values()))
        for (name, shown), place in zip(row.slices.items(), places[len(row.xrays) :], strict=False):
            place.imshow(shown.hu, cmap="gray", vmin=_GREY_HU[0], vmax=_GREY_HU[1])
            _outline(place, truth.bone, _TRUE)
            if shown is not truth:
                _outline(place, shown.bone, _FOUND)
            place.set_title(row.title if shown is truth and len(rows) > 1 else name, fontsize=7)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _outline(place: Any, bone: Array, colour: str) -> None:
    if bone.any() and not bone.all():
        place.contour(bone, levels=[0.5], colors=[colour], linewidths=0.7)
