"""One run of ``navnode model`` in a process of its own, which can be cancelled."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from navnode.offline.model_steps import (
    BeadsRead,
    BonesRead,
    Done,
    Failed,
    Share,
    read_step,
    write_request,
)
from navnode.offline.requests import ModelRequest

__all__ = ["ModelRun"]

log = logging.getLogger(__name__)

_LONGEST_S = 600.0
_LONGEST_LINE = 4 << 20
_PATIENCE_S = 3.0


@dataclass
class ModelRun:
    """A run, and what it has told so far.

    Args:
        folder: exists and is empty; the process writes into it.
        request: whose ``out`` is within the folder.
    """

    folder: Path
    request: ModelRequest
    share: float = 0.0
    beads: dict[int, BeadsRead] = field(default_factory=dict)
    bones: dict[int, BonesRead] = field(default_factory=dict)
    failed: str = ""
    done: Done | None = None
    running: bool = True
    cancelled: bool = False
    _process: asyncio.subprocess.Process | None = None

    async def work(self) -> None:
        """Run the process to its end, or until it takes too long."""
        try:
            write_request(self.folder, self.request)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "navnode",
                "_model",
                str(self.folder),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_LINE,
            )
            try:
                if self.cancelled:  # while it was being started
                    return
                async with asyncio.timeout(_LONGEST_S):
                    await self._listen(self._process)
            except TimeoutError:
                self.failed = f"it took longer than {_LONGEST_S / 60:.0f} minutes, and was ended"
            finally:
                await self._end(self._process)
        except OSError as error:
            self.failed = f"the run could not be started ({error.strerror})"
        finally:
            if self.done is None and not self.failed:
                self.failed = "cancelled" if self.cancelled else self._how_it_ended()
            self.running = False

    async def cancel(self) -> None:
        """End the process."""
        self.cancelled = True
        if self._process is not None:
            await self._end(self._process)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            match read_step(line):
                case Share(share):
                    self.share = share
                case BeadsRead() as beads:
                    self.beads[beads.number] = beads
                case BonesRead() as bones:
                    self.bones[bones.number] = bones
                case Failed(reason):
                    self.failed = reason.replace(f"{self.request.out.parent.parent}/", "")
                case Done() as done:
                    self.done = done
        await process.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is not None:
                return
            with suppress(ProcessLookupError):
                process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _PATIENCE_S)

    def _how_it_ended(self) -> str:
        code = None if self._process is None else self._process.returncode
        log.warning("model: the process ended with %s", code)
        if code == -signal.SIGKILL:
            return "the run was ended by the system; it may have needed more memory than there is"
        return "the run ended without a result, by an error of the program"
