"""Which source may send a device: the one that sent it first.

Otherwise a console that sends ``DrillToTracker``, or a second tracker with a device of the same name, would move the
drill on every display. What a configured source has ever sent is its own until the operator reconnects: another one
would otherwise take a device over in the moment that its source takes to connect again, and keep it. What consoles
push is theirs until they leave.
"""

from __future__ import annotations

__all__ = ["Origins"]


class Origins:
    """Devices and the sources that own them."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._reserved: set[str] = set()

    def refusal(self, device: str, origin: str, *, configured: bool = True) -> str:
        """Why a source may not send a device, or ''; a device without an owner belongs to the source from then on.

        Args:
            configured: whether the source is one of the configuration, rather than a console that pushes.
        """
        if device in self._reserved and not configured:
            return f"sends {device}, which comes from a configured source: ignored"
        if configured and device not in self._reserved:
            self._owners[device] = origin  # a console that pushed it first gives way
        owner = self._owners.setdefault(device, origin)
        if owner != origin:
            return f"sends {device}, which comes from {owner}: ignored"
        if configured:
            self._reserved.add(device)
        return ""

    def gone(self, origin: str) -> None:
        """A source vanished: what nobody but consoles has sent may come from elsewhere."""
        self._owners = {
            device: owner for device, owner in self._owners.items() if owner != origin or device in self._reserved
        }

    def forget(self) -> None:
        """The operator reconnects: the first configured source that sends a device has it from then on."""
        self._owners = {device: owner for device, owner in self._owners.items() if device not in self._reserved}
