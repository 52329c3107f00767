"""Plans of entry and target, and how the active tool deviates from the active one."""

from __future__ import annotations

from dataclasses import asdict

from navnode.loop.volume import Volumes
from navnode.planning.deviation import deviation, flaw, tip_covariance
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import CommandResult, Output, Plan, PlanCommand, PlanDeviation, PlanOperation, ToolPose

__all__ = ["MOST_PLANS", "Plans"]

MOST_PLANS = 32


class Plans:
    """The plans of a case; they belong to the volume in which they were made."""

    def __init__(self) -> None:
        self.known: dict[str, Plan] = {}
        self.active = ""
        """Name of the plan that is aimed at; '': none."""

    def on_command(self, command: PlanCommand, volume: Volumes) -> CommandResult:
        """Do what is asked, or say why not; nothing that was known is lost by what is refused."""
        match command.operation:
            case PlanOperation.ADD:
                done, text = self._add(command.plan, command.origin, volume)
            case PlanOperation.REMOVE:
                done, text = self._remove(command.name)
            case PlanOperation.ACTIVATE:
                done, text = self._activate(command.name)
        return CommandResult(command.operation, done, text)

    @property
    def present(self) -> tuple[tuple[Plan, ...], str]:
        """All plans, and the name of the one that is aimed at."""
        return tuple(self.known.values()), self.active

    def forget(self) -> str:
        """The volume is another one: what was planned in the old one lies somewhere else. Returns a notice, or ''."""
        if not self.known:
            return ""
        self.known, self.active = {}, ""
        return "plans are gone: the volume in which they were made is"

    def deviations(self, outputs: list[Output], tool: str, patient: RegistrationOverTime) -> list[Output]:
        """Deviations of the active tool's overlays among outputs."""
        plan = self.known.get(self.active)
        if plan is None:
            return []
        return [
            self._deviation(plan, output, patient)
            for output in outputs
            if isinstance(output, ToolPose) and output.tool == tool
        ]

    def _deviation(self, plan: Plan, pose: ToolPose, patient: RegistrationOverTime) -> PlanDeviation:
        if pose.volume_from_tool is None or patient.filter is None:
            return PlanDeviation(plan.name, pose.tool, None, None, None, None, None, None, pose.validity)
        known, tip_mm = patient.filter, pose.volume_from_tool[:3, 3]
        direction, tip = tip_covariance(known.covariance, known.rotation_center_mm, known.volume_from_patient, tip_mm)
        found = deviation(plan, pose.volume_from_tool, direction, tip)
        return PlanDeviation(plan=plan.name, tool=pose.tool, validity=pose.validity, **asdict(found))

    def _add(self, plan: Plan | None, origin: str, volume: Volumes) -> tuple[bool, str]:
        if plan is None:
            return False, "there is no plan to add, or its entry or target is not a number"
        if why_not := flaw(plan, volume.current):
            return False, why_not
        replaced = plan.name in self.known
        if not replaced and len(self.known) >= MOST_PLANS:
            return False, f"there are {MOST_PLANS} plans already"
        if replaced and plan.name == self.active and self.known[plan.name] != plan:
            return False, f"plan {plan.name!r} is aimed at: activate another one, or none, before it is changed"
        self.known[plan.name] = plan
        if not self.active:
            self.active = plan.name
        told = "aimed at" if self.active == plan.name else f"not aimed at: {self.active!r} is"
        return True, f"plan {plan.name!r} from {origin} is {'changed' if replaced else 'known'}, and {told}"

    def _remove(self, name: str) -> tuple[bool, str]:
        if name not in self.known:
            return False, self._unknown(name)
        del self.known[name]
        if name == self.active:
            self.active = ""
        return True, f"plan {name!r} is removed"

    def _activate(self, name: str) -> tuple[bool, str]:
        if name and name not in self.known:
            return False, self._unknown(name)
        self.active = name
        return True, f"plan {name!r} is aimed at" if name else "no plan is aimed at"

    def _unknown(self, name: str) -> str:
        return f"there is no plan {name!r}; known plans: {list(self.known)}"
