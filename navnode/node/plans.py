"""Plans beside the loop: from the case's file, consoles and commands into it, and back into the file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from navnode.clock import now_ns
from navnode.errors import ConfigError
from navnode.files.plans import Kept, read_plans, write_plans
from navnode.igtl import Message, Point, Trajectory
from navnode.igtl.plus import CommandError
from navnode.planning.deviation import flaw
from navnode.types import CommandResult, Plan, PlanCommand, PlanOperation, Volume

__all__ = ["PlanDesk", "kept_plans", "numbers", "plans_of"]

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 32
_BOTH_ENDS = 3
"""``kind`` of a trajectory's element that has entry and target."""

Numbers = tuple[float, float, float]


class PlanDesk:
    """Takes requests about plans, and keeps the plans in a file.

    Args:
        path: the file; None: they are not kept.
        ask: feeds a request to the loop and returns its result.
        present: the plans now, the name of the active one, and their volume.
        keep: whether what is done with them is written there: a replay must not change the case of before.
    """

    def __init__(
        self,
        path: Path | None,
        ask: Callable[[PlanCommand], CommandResult],
        present: Callable[[], tuple[tuple[Plan, ...], str, Volume | None]],
        *,
        keep: bool = True,
    ) -> None:
        self._path, self._keeps, self._ask, self._present = path, keep, ask, present

    def begin(self, volume: Volume | None) -> None:
        """Begin with the file's plans, if it exists.

        Raises:
            ConfigError: they cannot be used: a plan that is missing without a word would be worse.
        """
        if self._path is None or not self._path.exists():
            return
        kept = kept_plans(self._path, volume)
        for plan in kept.plans:
            self._ask(PlanCommand(PlanOperation.ADD, plan.name, plan, self._path.name, now_ns()))
        if kept.plans:
            self._ask(PlanCommand(PlanOperation.ACTIVATE, kept.active, None, self._path.name, now_ns()))

    def from_console(self, message: Message, address: str) -> None:
        """Add the plans of a console's message; what is wrong with one is told to the operator."""
        for plan in plans_of(message)[:_MOST_AT_ONCE]:
            known = plan if np.isfinite([plan.entry_mm, plan.target_mm]).all() else None
            result = self._ask(PlanCommand(PlanOperation.ADD, plan.name, known, f"console {address}", now_ns()))
            log.log(logging.INFO if result.done else logging.WARNING, "%s", result.text)
        self._keep()

    def command(self, operation: PlanOperation, parameters: Mapping[str, str]) -> str:
        """Do what a command asks for.

        Raises:
            CommandError: why it is not done.
        """
        name, plan = parameters.get("Plan", ""), None
        if operation is PlanOperation.ADD:
            plan = Plan(name, numbers(parameters, "Entry"), numbers(parameters, "Target"))
        result = self._ask(PlanCommand(operation, name, plan, "a command", now_ns()))
        if not result.done:
            raise CommandError(result.text)
        kept = self._keep()
        return f"{result.text}; {kept}" if kept else result.text

    def _keep(self) -> str:
        """Write the file; returns why that failed, or ''. The plans stay known all the same."""
        if self._path is None or not self._keeps:
            return ""
        plans, active, volume = self._present()
        try:
            write_plans(self._path, plans, active, volume)
        except ConfigError as error:
            log.error("plans are not kept: %s", error)
            return f"but it is not kept: {error}"
        return ""


def kept_plans(path: Path, volume: Volume | None) -> Kept:
    """The plans of a file.

    Raises:
        ConfigError: one cannot be used in the volume, or the active one is none of them; names the file.
    """
    kept = read_plans(path, volume)
    for plan in kept.plans:
        if why_not := flaw(plan, volume):
            raise ConfigError(f"{path}: {why_not}")
    names = [plan.name for plan in kept.plans]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"{path}: the name {twice!r} occurs twice")
    if kept.active and kept.active not in names:
        raise ConfigError(f"{path}: active: there is no plan {kept.active!r}")
    return kept


def plans_of(message: Message) -> list[Plan]:
    """Plans in a message: paths with both ends, or points of which two are an entry and a target."""
    if isinstance(message, Trajectory):
        whole = [each for each in message.trajectories if each.kind == _BOTH_ENDS]
        return [Plan(each.name or f"Plan {n + 1}", each.entry_mm, each.target_mm) for n, each in enumerate(whole)]
    if isinstance(message, Point) and len(message.points) == 2:
        by_name = {point.name.strip().lower(): point.position_mm for point in message.points}
        entry, target = by_name.get("entry"), by_name.get("target")
        if entry is not None and target is not None:
            return [Plan(message.device, entry, target)]
        return [Plan(message.device, message.points[0].position_mm, message.points[1].position_mm)]
    return []


def numbers(parameters: Mapping[str, str], key: str) -> Numbers:
    """The point (RAS, mm) that a command's parameter states.

    Raises:
        CommandError: it is missing, or not three numbers.
    """
    try:
        x, y, z = map(float, parameters.get(key, "").replace(",", " ").split())
        if not np.isfinite([x, y, z]).all():
            raise ValueError
    except ValueError as error:
        raise CommandError(f"{key} must be three numbers: R A S in mm") from error
    return x, y, z
