"""Which sessions an archive takes."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from navnode.clock import NS_PER_S
from navnode.config.fields import option
from navnode.recording.integrity import Integrity, Verdict

__all__ = ["Facts", "Policy"]

_PANEL = "Policy"
_NS_PER_DAY = 86_400 * NS_PER_S
_GB = 1e9


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file may say, and options likewise; None is not said."""

    xrays: Annotated[int, option("Take sessions with at least this many X-rays (1).", ge=0, panel=_PANEL)] | None = None
    seconds: Annotated[float, option("Take sessions of at least this length (0).", ge=0, panel=_PANEL)] | None = None
    replays: (
        Annotated[bool, option("Also take outputs of replays (no).", flag="--replays/--no-replays", panel=_PANEL)]
        | None
    ) = None
    unfinished: (
        Annotated[
            bool,
            option(
                "Also take sessions whose recorder was killed, as far as they go (no).",
                flag="--unfinished/--no-unfinished",
                panel=_PANEL,
            ),
        ]
        | None
    ) = None
    video: (
        Annotated[
            bool,
            option(
                "Also take X-rays from a video output, which may show the patient's name (no).",
                flag="--video/--no-video",
                panel=_PANEL,
            ),
        ]
        | None
    ) = None
    older_than_days: (
        Annotated[float, option("Take sessions that ended so long ago (0).", ge=0, panel=_PANEL)] | None
    ) = None
    newer_than_days: (
        Annotated[float, option("Take sessions that ended less long ago (any).", ge=0, panel=_PANEL)] | None
    ) = None
    max_session_gb: Annotated[float, option("Take sessions up to this size (any).", ge=0, panel=_PANEL)] | None = None
    max_total_gb: Annotated[float, option("Fill the archive up to this size (any).", ge=0, panel=_PANEL)] | None = None

    def over(self, other: Policy) -> Policy:
        """This policy, and the other one's word where this says nothing."""
        said = {name: value for name in Policy.__struct_fields__ if (value := getattr(self, name)) is not None}
        of_other = {name: getattr(other, name) for name in Policy.__struct_fields__}
        return Policy(**{**of_other, **said})

    def refusal(self, facts: Facts, now_ns: int) -> str:
        """Why a session is not taken; '': it is."""
        days = (now_ns - facts.ended_ns) / _NS_PER_DAY
        if facts.verdict.integrity is Integrity.UNFINISHED and not self.unfinished:
            return "it was not finished (--unfinished takes it; navnode recover makes it whole)"
        if facts.replay and not self.replays:
            return "it holds outputs of a replay"
        least = 1 if self.xrays is None else self.xrays
        if facts.xrays < least:
            return f"{facts.xrays} X-rays, {least} are the least"
        if facts.video and not self.video:
            return "its X-rays may come from a video output and show the patient's name (--video takes it)"
        if self.seconds is not None and facts.seconds < self.seconds:
            return f"{facts.seconds:.0f} s long, {self.seconds:g} s are the least"
        if self.older_than_days is not None and days < self.older_than_days:
            return f"ended {days:.1f} days ago, {self.older_than_days:g} are the least"
        if self.newer_than_days is not None and days > self.newer_than_days:
            return f"ended {days:.0f} days ago, {self.newer_than_days:g} are the most"
        if self.max_session_gb is not None and facts.size_bytes > self.max_session_gb * _GB:
            return f"{facts.size_bytes / _GB:.2f} GB, {self.max_session_gb:g} are the most"
        return ""

    def fits(self, total_bytes: int) -> bool:
        """Whether an archive may hold so much."""
        return self.max_total_gb is None or total_bytes <= self.max_total_gb * _GB


class Facts(NamedTuple):
    """What a policy asks of a session."""

    xrays: int
    seconds: float
    ended_ns: int
    size_bytes: int
    replay: bool
    video: bool
    verdict: Verdict
