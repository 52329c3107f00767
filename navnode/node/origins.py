"""Who may send what: a device belongs to the source that sent it first, until that source vanishes.

A console that sends ``DrillToTracker`` beside the tracker would move the drill on every display; so would a second
tracker with a device of the same name.
"""

from __future__ import annotations


class Origins:
    """Devices and the sources that they belong to."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def refusal(self, device: str, origin: str) -> str:
        """Why a device is not taken from a source, or ''; a device that belongs to nobody is its own from now on."""
        owner = self._owners.setdefault(device, origin)
        return "" if owner == origin else f"sends {device}, which comes from {owner}: ignored"

    def gone(self, origin: str) -> None:
        """A source vanished: what it sent may come from elsewhere."""
        self._owners = {device: owner for device, owner in self._owners.items() if owner != origin}
