"""``navnode calibrate pivot``, ``spin`` and ``tool``: tracked tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import documents, inputs
from calibration import pivot as pivot_
from calibration import spin as spin_
from calibration import tool as tool_
from calibration.commands import options
from calibration.commands.call import Call
from calibration.verdict import Calibration
from navnode.files.artifacts import PivotResult, SpinResult, ToolResult


def pivot(
    call: Call,
    poses: options.Poses = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="POSES", help="tracker_from_reference, same rows, if the divot may move."),
    ] = None,
    no_reject: Annotated[bool, typer.Option("--no-reject", help="Keep every row, for comparison with others.")] = False,
) -> Calibration[PivotResult]:
    """A tool's tip: rest it in a divot, and turn the tool about it in every direction."""
    tracker_from_tool = call.sources.poses("poses", poses)
    other = call.sources.poses_if_any("reference", reference)
    tracker_from_reference = None if other is None else other.poses
    return pivot_.pivot(tracker_from_tool.poses, tracker_from_reference, gates=call.gates, reject=not no_reject)


def spin(
    call: Call, poses: options.Poses = None, tip: options.Tip = None, pivot: options.Pivot = None
) -> Calibration[SpinResult]:
    """A tool's axis: turn it about its own axis, as in a bearing."""
    tracker_from_tool = call.sources.poses("poses", poses)
    tip_mm = documents.tip_mm(tip, pivot, call.files, call.now_ns)
    return spin_.spin(tracker_from_tool.poses, tip_mm, gates=call.gates)


def tool(
    call: Call,
    points: Annotated[
        Path, typer.Argument(metavar="POINTS.csv", help="frame,x_mm,y_mm,z_mm: unlabelled spheres, tool at rest.")
    ],
) -> Calibration[ToolResult]:
    """A marker's template: where its spheres are."""
    return tool_.tool(inputs.frames(points, call.files), gates=call.gates)
