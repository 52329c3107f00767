"""Surfaces on their way to consoles: large ones are decimated first, beside the loop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from navnode.errors import ComputeError
from navnode.igtl import PolyData, cells
from navnode.node.decimation import decimated_apart
from navnode.types import Mesh

__all__ = ["Surfaces"]

log = logging.getLogger(__name__)


class Surfaces:
    """Publishes surfaces with a bounded number of triangles; the newest of every device wins.

    Args:
        most_triangles: 0: all.
        publish: called in the loop's thread, at once for small surfaces.
    """

    def __init__(self, most_triangles: int, publish: Callable[[PolyData], None]) -> None:
        self._most_triangles, self._publish = most_triangles, publish
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="surfaces")
        self._number = Counter[str]()
        """Device -> number of its newest surface."""

    def __call__(self, surface: PolyData) -> None:
        """Publish a surface, or its decimated copy as soon as there is one."""
        self._number[surface.device] += 1
        number = self._number[surface.device]
        # Four words a triangle; what is not made of triangles alone is not decimated.
        if not self._most_triangles or surface.polygons.size <= 4 * self._most_triangles:
            self._publish(surface)
            return

        def done(future: asyncio.Future[PolyData | None]) -> None:
            if future.cancelled() or number != self._number[surface.device]:
                return
            if error := future.exception():
                log.error("%s: a surface could not be decimated", surface.device, exc_info=error)
            self._publish((None if error else future.result()) or surface)

        def decimate() -> PolyData | None:
            return self._decimated(surface) if number == self._number[surface.device] else None

        asyncio.get_running_loop().run_in_executor(self._turns, decimate).add_done_callback(done)

    def _decimated(self, surface: PolyData) -> PolyData:
        """The copy, which states how far it is from the whole; the whole if there is none."""
        triangles = surface.triangles
        try:
            fewer = decimated_apart(Mesh(surface.points_mm, triangles), self._most_triangles)
        except ComputeError as error:
            log.warning("%s goes to consoles whole: %s", surface.device, error)
            return surface
        stated = {
            "DecimationErrorMm": f"{fewer.error_most_mm:.2f}",
            "DecimationError95Mm": f"{fewer.error_95_mm:.2f}",
            "TrianglesBefore": str(len(triangles)),
        }
        return msgspec.structs.replace(
            surface,
            metadata={**surface.metadata, **stated},
            points_mm=fewer.mesh.vertices_mm,
            polygons=cells(fewer.mesh.triangles),
        )

    def close(self) -> None:
        """Begin no more."""
        self._turns.shutdown(wait=False, cancel_futures=True)
