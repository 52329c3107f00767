"""``navnode calibrate pivot``, ``spin`` and ``tool``: tracked tools."""

from __future__ import annotations

from navnode.files.artifacts import PivotResult, SpinResult, ToolResult

from .. import documents, inputs
from .. import pivot as pivot_
from .. import spin as spin_
from .. import tool as tool_
from ..requests import PivotRequest, SpinRequest, ToolRequest
from ..verdict import Calibration
from .call import Call


def pivot(request: PivotRequest, call: Call) -> Calibration[PivotResult]:
    """A tool's tip: rest it in a divot, and turn the tool about it in every direction."""
    poses = call.sources.poses("poses", request.poses).poses
    other = call.sources.poses_if_any("reference", request.reference)
    reference = None if other is None else other.poses
    return pivot_.pivot(poses, reference, gates=call.gates, reject=not request.no_reject)


def spin(request: SpinRequest, call: Call) -> Calibration[SpinResult]:
    """A tool's axis: turn it about its own axis, as in a bearing."""
    poses = call.sources.poses("poses", request.poses).poses
    tip_mm = documents.tip_mm(request.tip, request.pivot, call.files, call.now_ns)
    return spin_.spin(poses, tip_mm, gates=call.gates)


def tool(request: ToolRequest, call: Call) -> Calibration[ToolResult]:
    """A marker's template: where its spheres are."""
    return tool_.tool(inputs.frames(request.points, call.files), gates=call.gates)
