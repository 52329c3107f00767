"""Plans of entry and target from other programs: the work of ``navnode plan``."""

from __future__ import annotations

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files.plans import import_plans, write_plans
from navnode.files.volumes import read_volume
from navnode.files.whole import refuse_existing
from navnode.offline.requests import PlanRequest
from navnode.planning.deviation import flaw
from navnode.planning.views import angles_of
from navnode.types import Plan

__all__ = ["PlanRow", "PlansReport", "plan"]


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One plan."""

    name: str
    entry_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    """RAS."""
    length_mm: float
    view: str
    """Angles of the C-arm that looks along it from the entry."""


class PlansReport(msgspec.Struct, frozen=True, kw_only=True):
    """All plans; the first is aimed at, unless a file names another."""

    plans: list[PlanRow]
    out: str
    """The file that was written, or ''."""


def plan(request: PlanRequest) -> PlansReport:
    """Check plans, and write them if that is asked for.

    Raises:
        ConfigError: a file holds no plan, a plan does not lie in the CT, or two have one name; names the file.
    """
    if request.out is not None:
        refuse_existing(request.out)
    volume = read_volume(request.volume, request.read_as())
    found: dict[str, Plan] = {}
    kept = [(path, import_plans(path, volume)) for path in request.plans]
    for path, each in ((path, each) for path, read in kept for each in read.plans):
        if why_not := flaw(each, volume):
            raise ConfigError(f"{path}: {why_not}")
        if each.name in found:
            raise ConfigError(f"{path}: a second plan {each.name!r}: markups are named by their files")
        found[each.name] = each
    if request.out is not None:
        chosen = [read.active for _, read in kept if read.active] or list(found)
        write_plans(request.out, tuple(found.values()), next(iter(chosen), ""), volume)
    return PlansReport(plans=[_row(each) for each in found.values()], out=str(request.out or ""))


def _row(plan: Plan) -> PlanRow:
    way = np.array(plan.target_mm) - np.array(plan.entry_mm)
    return PlanRow(
        name=plan.name,
        entry_mm=plan.entry_mm,
        target_mm=plan.target_mm,
        length_mm=round(float(np.linalg.norm(way)), 2),
        view=str(angles_of(way)),
    )
