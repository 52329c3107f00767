"""CT series that were sent, each in a folder of its own that ``volume.ct`` can name; stored as they were sent."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.files.whole import whole

__all__ = ["SeriesStore"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64


class SeriesStore:
    """A folder of series, bounded in size.

    Args:
        folder: made when the first series arrives; readable by its owner alone.
        most_bytes: of all files in it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        self._used_bytes: int | None = None
        self._coming: dict[Any, set[Path]] = {}

    def add(self, content: bytes, name: Path, sender: Any) -> bool:
        """Store a file of a series; one that is there already stays as it is.

        Args:
            content: the file, with preamble and file meta information.
            name: what errors call it.
            sender: whose series it belongs to, see :meth:`completed`.

        Returns:
            False: there is no room for it.

        Raises:
            ConfigError: it belongs to no series, or is damaged; names it.
            OSError: the folder cannot be written.
        """
        dataset = dicom_read.read_dataset(content, name)
        series, instance = (dicom_read.text(dataset, f"{kind}InstanceUID") for kind in ("Series", "SOP"))
        for uid, what in ((series, "SeriesInstanceUID"), (instance, "SOPInstanceUID")):
            if not _UID.fullmatch(uid) or len(uid) > _LONGEST_UID:
                raise ConfigError(f"{name}: its {what} is none")
        if dicom_read.text(dataset, "Modality") != "CT":
            raise ConfigError(f"{name}: not a CT")
        folder = self._folder / series
        path = folder / f"{instance}.dcm"
        with self._lock:
            if not path.exists():
                if not self._take(len(content)):
                    return False
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with whole(path) as part:
                    part.write_bytes(content)
            self._coming.setdefault(sender, set()).add(folder)
        return True

    def completed(self, sender: Any) -> list[tuple[Path, int]]:
        """The folders to which a sender that has left added files, and how many are in them, from whomever."""
        with self._lock:
            return [(folder, len(list(folder.glob("*.dcm")))) for folder in sorted(self._coming.pop(sender, set()))]

    def _take(self, size: int) -> bool:
        """Whether there is room; the folder is counted at first, and again when it seems full."""
        if self._used_bytes is None or self._used_bytes + size > self._most_bytes:
            self._used_bytes = sum(path.stat().st_size for path in self._folder.rglob("*.dcm"))
        if self._used_bytes + size > self._most_bytes:
            return False
        self._used_bytes += size
        return True
