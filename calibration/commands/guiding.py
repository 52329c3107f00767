"""What `calibrate all` says: what each measurement is, what to do, and how it went."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from navnode.clock import now_ns

from ..guide import Run, StepState, VerdictState, verdict_state
from ..results import change_in_words, found_in_words, in_words
from ..room import State, Step, Used
from ..samples import Glance

__all__ = ["TASKS", "WITHOUT", "live", "summary", "title", "verdict_lines"]

_TITLES = {
    "tool": "Marker of {0}",
    "pivot": "Tip of {0}",
    "spin": "Axis of {0}",
    "carm": "C-arm: distance, principal point, distortion",
    "flex": "C-arm: how it bends",
    "handeye": "C-arm: where its marker is",
    "temporal": "Delay of the images",
    "flatfield": "Detector: dark, gain, bad pixels",
    "patient": "Patient: start of the registration",
    "phantom": "Check of the whole chain",
}
TASKS = {
    "spheres": "Lay the tool down in view of the tracker and leave it alone.",
    "tip": "Rest the tip of {0} in a divot. Tilt the tool in all directions, at least 20°, and turn it.",
    "axis": "Turn {0} about its own axis, as in a bearing, by more than a quarter turn.",
    "shots": (
        "Place the bead phantom at the isocentre and do not move it again. Take an X-ray at 12 or more positions of "
        "the C-arm, no further than 20° apart, over 60° or more and with two angulations. Hold still at each; pause at "
        "the end."
    ),
    "sweep": "With the beam on, push the C-arm to and fro, irregularly, for 10 s. The phantom stays where it is.",
    "flat": "Take 5 or more images without X-rays, then 5 or more with nothing in the beam.",
    "points": "Touch the planned points on the patient with {0}, in their order. Hold still for a second on each.",
    "targets": "Touch the targets with {0}, in their order. Hold still for a second on each.",
}
"""Measurement -> what to do; {0}: the tool."""
WITHOUT = {
    "tool": "the tracker goes by the template that it has",
    "pivot": "the tip is where the configuration says it is",
    "spin": "the axis points where the configuration says it points",
    "carm": "distance and principal point are the maker's, distortion is not corrected: errors of millimetres",
    "flex": "the C-arm is assumed not to bend: errors of some millimetres at other angles",
    "handeye": "the marker on the C-arm is where the configuration says it is",
    "temporal": "images are assumed to be stamped like poses: errors while anything moves",
    "flatfield": "the detector is assumed to correct itself",
    "patient": "the registration starts where the configuration says, which may be too far off",
    "phantom": "nobody has checked the whole chain",
}
"""Routine -> what follows if it is left out."""
_USED = {
    Used.NOW: "in use",
    Used.NEXT_START: "used from the node's next start",
    Used.NEVER: 'not used by any node: set [calibration] folder = "calibration"',
    Used.VERIFIES: "for the record; no node loads it",
}
_BAR = 30
_NS_PER_HOUR = 3_600_000_000_000


def title(step: Step | StepState) -> str:
    """A step in words."""
    routine = step.kind.name if isinstance(step, Step) else step.routine
    return _TITLES[routine].format(step.tool)


def used(value: str) -> str:
    """From when on something is used, in words."""
    return _USED[Used(value)]


def verdict_lines(step: Step, run: Run) -> list[str]:
    """The verdict of a step: result, figures beside their pass marks, difference from the one before, what to do."""
    verdict = verdict_state(step, run)
    lines = [f"{'PASS' if verdict.passed else 'FAIL'}  {title(step)}"]
    if verdict.found and verdict.passed:
        lines.append(f"      {found_in_words(verdict.found)}")
    if not verdict.passed:
        lines.append(f"      {_in_words(verdict)}")
    lines += [f"      {change_in_words(each)}" for each in verdict.changes if verdict.passed]
    return lines


def _in_words(verdict: VerdictState) -> str:
    """Why it failed, with figures in units that people use, and what to do."""
    broken = next((figure for figure in verdict.figures if not figure.kept), None)
    if broken is None or not verdict.reason.startswith(f"{verdict.code}: {broken.what} "):
        return verdict.reason.partition(": ")[2]
    return f"{broken.what}: {in_words(broken)}; {verdict.advice}"


def live(run: Run, share: float, left_s: float) -> Group:
    """A measurement under way: what is received, covered and found, and the next thing to do."""
    table = Table.grid(padding=(0, 2))
    for device, count in zip(run.devices.values(), run.counts(), strict=True):
        table.add_row(Text(device, "bold"), f"{count} samples" if count else Text("waiting", "yellow"), "")
    for step in run.steps:
        if step.kind.name in run.verdicts:
            for figure in verdict_state(step, run).figures:
                table.add_row(figure.what, in_words(figure), Text("✓", "green") if figure.kept else Text("…", "yellow"))
    parts: list[RenderableType] = [ProgressBar(100, 100 * share, width=_BAR), table]
    if run.covered.labels:
        marks = [f"{'●' if done else '○'} {label}" for label, done in run.covered.labels]
        parts.insert(1, Text("  ".join(marks)))
    elif run.covered.kind == "angles":
        parts.insert(1, Text(f"{len(run.covered.places)} shots{_of_shot(run.shot)}"))
    return Group(*parts, _advice(run), Text(f"{max(left_s, 0):.0f} s left; Ctrl-C ends the measurement", style="dim"))


def _advice(run: Run) -> Text:
    if run.judging and run.steps[0].measurement == "shots":
        return Text("fitting; this takes up to a minute", style="cyan")
    if run.told:
        return Text(run.told, style="yellow")
    failed = next((step for step in run.steps if step.kind.name in run.verdicts and step not in run.passed), None)
    if failed is not None:
        return Text(_in_words(verdict_state(failed, run)), style="yellow")
    return Text("good: continue for a moment" if run.complete else "go on", style="green" if run.complete else "cyan")


def summary(steps: Sequence[StepState]) -> Table:
    """All steps: what is there, what it says, and from when on it is used."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for head in ("step", "state", "result", "used"):
        table.add_column(head, style="bold" if head == "step" else "")
    for step in steps:
        table.add_row(step.name, _state(step), found_in_words(step.found), _used_now(step))
    return table


def _state(step: StepState) -> Text:
    if step.state == State.KEPT:
        return Text.assemble(("kept", "green"), f" {_ago(step.created_ns)}")
    if step.state == State.REFUSED:
        return Text("not usable", "red")
    if step.skipped or step.need == "optional":
        return Text("left out" if step.skipped else "not needed")
    return Text(step.need, "yellow")


def _ago(created_ns: int) -> str:
    """How old something is, in words; '' if that is not known."""
    hours = (now_ns() - created_ns) / _NS_PER_HOUR
    return "" if not created_ns or hours < 1 else f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"


def _used_now(step: StepState) -> str:
    return used(step.used) if step.state == State.KEPT else step.reason


def _of_shot(shot: Glance | None) -> str:
    """How the newest shot looks by itself."""
    if shot is None:
        return ""
    if shot.residual_px is None:
        return f"; in shot {shot.number} the phantom is not recognised"
    return f"; shot {shot.number}: {shot.beads} of {shot.of} beads, residual {shot.residual_px:.2f} px before the fit"
