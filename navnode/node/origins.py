"""Which source may send a device: the one that sent it first, until it vanishes.

Otherwise a console that sends ``DrillToTracker``, or a second tracker with a device of the same name, would move the
drill on every display.
"""

from __future__ import annotations

__all__ = ["Origins"]


class Origins:
    """Devices and the sources that own them."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def refusal(self, device: str, origin: str) -> str:
        """Why a source may not send a device, or ''; a device without an owner belongs to the source from then on."""
        owner = self._owners.setdefault(device, origin)
        return "" if owner == origin else f"sends {device}, which comes from {owner}: ignored"

    def gone(self, origin: str) -> None:
        """A source vanished: its devices may come from elsewhere."""
        self._owners = {device: owner for device, owner in self._owners.items() if owner != origin}
