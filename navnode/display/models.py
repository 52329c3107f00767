"""The page of ``navnode serve-models``: pictures in, bones out, on this machine; nothing is kept unless asked."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec
from aiohttp import web

from navnode.config import DisplaySection
from navnode.display.connections import Connections
from navnode.display.model_run import ModelRun
from navnode.display.web import asked_for, asset, headers, refuse_other_origins, serving
from navnode.errors import ConfigError
from navnode.files.dicom_read import is_dicom
from navnode.files.whole import whole, write_whole
from navnode.jig import Jig, jig_for, read_jig, write_jig
from navnode.jig.spots import SCHEMA as BEADS_SCHEMA
from navnode.jig.spots import PictureCorrected
from navnode.offline.requests import MOST_PICTURES, DistanceMm, ModelRequest, PatientMm, PixelMm

__all__ = ["Desk", "RunAsked", "serve_models"]

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_MOST_BYTES, _MOST_BYTES_IN_ALL, _MOST_JIG_BYTES, _MOST_JSON_BYTES = 160 << 20, 640 << 20, 1 << 20, 1 << 20
_MOST_UPLOAD_S, _CHUNK = 300.0, 1 << 18
_FORGOTTEN_AFTER_S, _LOOKED_AT_EVERY_S = 1800.0, 10.0
_MAGIC = {
    b"\x89PNG": ".png",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"II+\0": ".tif",
    b"MM\0+": ".tif",
    b"\x93NUM": ".npy",
}
_RESULT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)
"""For the report, which has its script and pictures within itself; it is another origin to this page."""


class RunAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the page asks a run to do."""

    pixel_mm: PixelMm | None = None
    distance_mm: DistanceMm | None = None
    patient_mm: PatientMm | None = None
    angles: Annotated[str, msgspec.Meta(max_length=400)] = ""
    use_jig: bool = True
    beads: tuple[PictureCorrected, ...] = ()


class Desk:
    """The pictures, the jig and the run of one page, whoever looks at it.

    Args:
        section: where it is served.
        folder: of its own; pictures and results are below it.
        keep: copies of results go here; None: nothing is kept.
        jigs: measured jigs to choose from, beside the shipped layout.
    """

    def __init__(
        self, section: DisplaySection, folder: Path, keep: Path | None = None, jigs: tuple[Jig, ...] = ()
    ) -> None:
        self._section, self._folder, self._keep = section, folder, keep
        self._jigs = {jig.name: jig for jig in (*jigs, jig_for())}
        self._jig: Jig | None = next(iter(self._jigs.values()))
        self._pictures: dict[int, Path] = {}
        self._numbers = self._runs = self._cleared = 0
        self._receiving = False
        self._run: ModelRun | None = None
        self._starting, self._zipping = asyncio.Lock(), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._kept = ""
        self._asked = RunAsked()
        self._touched_s = time.monotonic()
        self.connections = Connections()

    def application(self) -> web.Application:
        """The web application with all routes."""
        app = web.Application(middlewares=[self.connections.middleware], client_max_size=_MOST_JSON_BYTES)
        get, post = app.router.add_get, app.router.add_post
        get("/", self._page)
        get("/static/{name}", self._asset)
        get("/state", self._guarded(self._state))
        get("/shown/{run}/{name}", self._guarded(self._shown))
        get("/result/{run}/{name}", self._guarded(self._result))
        post("/pictures", self._guarded(self._add_picture))
        post("/pictures/{number}/remove", self._guarded(self._remove_picture))
        post("/jig", self._guarded(self._take_jig))
        post("/jig/{name}", self._guarded(self._choose_jig))
        post("/run", self._guarded(self._start))
        post("/cancel", self._guarded(self._cancel))
        post("/clear", self._guarded(self._clear))
        app.on_cleanup.append(self._cleanup)
        return app

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            refuse_other_origins(request, self._section)
            self._touched_s = time.monotonic()
            try:
                answer: web.StreamResponse = await handler(request)
            except ConfigError as error:
                raise web.HTTPBadRequest(text=str(error).replace(f"{self._folder}/", "")) from error
            return answer

        return guarded

    # what is shown

    async def _page(self, _: web.Request) -> web.Response:
        return asset(_HERE, "models.html", frames=True)

    async def _asset(self, request: web.Request) -> web.Response:
        return asset(_HERE, request.match_info["name"])

    async def _state(self, _: web.Request) -> web.Response:
        run = self._run
        state = {
            "pictures": [{"number": n, "kind": path.suffix[1:]} for n, path in self._pictures.items()],
            "most_pictures": MOST_PICTURES,
            "jig": None if self._jig is None else {"name": self._jig.name, "measured": self._jig.measured},
            "jigs": list(self._jigs),
            "asked": self._asked,
            "keeps": self._keep is not None,
            "run": None
            if run is None
            else {
                "number": self._runs,
                "running": run.running,
                "share": run.share,
                "beads": list(run.beads.values()),
                "bones": list(run.bones.values()),
                "failed": run.failed,
                "report": None if run.done is None else run.done.report,
                "files": self._files(),
                "kept": self._kept,
            },
        }
        return web.json_response(msgspec.to_builtins(state), headers=headers())

    def _files(self) -> list[str]:
        if self._run is None or self._run.done is None:
            return []
        return sorted(path.name for path in self._run.request.out.iterdir() if path.is_file())

    def _of_run(self, request: web.Request) -> ModelRun:
        if self._run is None or request.match_info["run"] != str(self._runs):
            raise web.HTTPNotFound(text="there is no such run any more")
        return self._run

    async def _shown(self, request: web.Request) -> web.Response:
        run, name = self._of_run(request), request.match_info["name"]
        known = {each.preview for each in run.beads.values()} | {each.drawn for each in run.bones.values()}
        if name not in known:
            raise web.HTTPNotFound
        content = await asyncio.to_thread((run.folder / name).read_bytes)
        return web.Response(body=content, content_type="image/jpeg", headers=headers())

    async def _result(self, request: web.Request) -> web.StreamResponse:
        run, name = self._of_run(request), request.match_info["name"]
        if name == "all.zip" and run.done is not None:
            async with self._zipping:
                path = await asyncio.to_thread(_zipped, run.folder / "all.zip", run.request.out)
        elif name in self._files():
            path = run.request.out / name
        else:
            raise web.HTTPNotFound
        told = headers()
        if name.endswith(".html") and "download" not in request.query:
            told["Content-Security-Policy"] = _RESULT_POLICY
            return web.FileResponse(path, headers=told | {"Content-Type": "text/html; charset=utf-8"})
        return web.FileResponse(path, headers=told | {"Content-Disposition": f'attachment; filename="{name}"'})

    # what comes in

    def _refuse_while_running(self) -> None:
        if self._run is not None and self._run.running:
            raise web.HTTPConflict(text="a run is going on; cancel it first")

    async def _add_picture(self, request: web.Request) -> web.Response:
        self._refuse_while_running()
        if self._receiving:
            raise web.HTTPConflict(text="another picture is being received")
        if len(self._pictures) >= MOST_PICTURES:
            raise web.HTTPConflict(text=f"{MOST_PICTURES} pictures are the most")
        used = sum(path.stat().st_size for path in self._pictures.values())
        most = min(_MOST_BYTES, _MOST_BYTES_IN_ALL - used)
        self._receiving = True
        part, cleared = self._folder / "arriving", self._cleared
        try:
            await _received(request, part, most)
            self._refuse_while_running()
            if cleared != self._cleared:
                raise web.HTTPConflict(text="all pictures were removed meanwhile")
            suffix = _suffix(part)
            self._numbers += 1
            path = self._folder / f"picture-{self._numbers}{suffix}"
            part.replace(path)
            self._pictures[self._numbers] = path
        finally:
            part.unlink(missing_ok=True)
            self._receiving = False
        return await self._state(request)

    async def _remove_picture(self, request: web.Request) -> web.Response:
        self._refuse_while_running()
        number = request.match_info["number"]
        path = self._pictures.pop(int(number), None) if number.isdecimal() and len(number) < 9 else None
        if path is None:
            raise web.HTTPNotFound(text="there is no such picture")
        path.unlink(missing_ok=True)
        await self._forget_run()
        return await self._state(request)

    async def _take_jig(self, request: web.Request) -> web.Response:
        self._refuse_while_running()
        part = self._folder / "jig.json"
        try:
            await _received(request, part, _MOST_JIG_BYTES)
            self._refuse_while_running()
            jig = read_jig(part)
        finally:
            part.unlink(missing_ok=True)
        self._jigs = {jig.name: jig} | self._jigs
        self._jig = jig
        return await self._state(request)

    async def _choose_jig(self, request: web.Request) -> web.Response:
        self._refuse_while_running()
        if request.match_info["name"] not in self._jigs:
            raise web.HTTPNotFound(text="there is no such jig")
        self._jig = self._jigs[request.match_info["name"]]
        return await self._state(request)

    # the run

    async def _start(self, request: web.Request) -> web.Response:
        self._refuse_while_running()
        asked = await asked_for(request, RunAsked)
        async with self._starting:  # one request after the other: each looks at what runs
            self._refuse_while_running()
            folder = self._folder / f"run-{self._runs + 1}"
            folder.mkdir()
            try:
                run = ModelRun(folder, self._request(asked, folder))
            except BaseException:
                shutil.rmtree(folder)
                raise  # what was made before stays
            await self._forget_run()
            self._runs, self._asked, self._run = self._runs + 1, asked, run
            self._task = asyncio.create_task(self._work(run))
        return await self._state(request)

    def _request(self, asked: RunAsked, folder: Path) -> ModelRequest:
        jig, beads = None, None
        if asked.use_jig:
            if self._jig is None:
                raise ConfigError("no jig is chosen")
            jig = folder / "jig.json"
            write_jig(jig, self._jig)
            if asked.beads:
                beads = folder / "beads.json"
                document = {"schema": BEADS_SCHEMA, "pictures": asked.beads}
                write_whole(beads, msgspec.json.encode(document))
        return ModelRequest(
            pictures=tuple(self._pictures.values()),
            out=folder / "result",
            jig=jig,
            beads=beads,
            angles="" if asked.use_jig else asked.angles,
            pixel_mm=asked.pixel_mm,
            distance_mm=None if asked.use_jig else asked.distance_mm,
            patient_mm=None if asked.use_jig else asked.patient_mm,
        )

    async def _work(self, run: ModelRun) -> None:
        await run.work()
        if run.done is None or self._keep is None:
            return
        kept = self._keep / time.strftime(f"model-%Y%m%d-%H%M%S-{self._runs}")
        try:
            await asyncio.to_thread(shutil.copytree, run.request.out, kept)
            self._kept = str(kept)
        except OSError as error:
            self._kept = f"nowhere, {kept} cannot be written ({error.strerror or error})"

    async def _cancel(self, request: web.Request) -> web.Response:
        if self._run is not None and self._run.running:
            await self._run.cancel()
        return await self._state(request)

    async def _clear(self, request: web.Request) -> web.Response:
        await self._forget()
        return await self._state(request)

    async def _forget_run(self) -> None:
        if self._run is not None:
            await self._run.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._run is not None:
            await asyncio.to_thread(shutil.rmtree, self._run.folder, ignore_errors=True)
        self._run, self._task, self._kept = None, None, ""

    async def _forget(self) -> None:
        self._cleared += 1
        await self._forget_run()
        for path in self._pictures.values():
            path.unlink(missing_ok=True)
        self._pictures.clear()
        self._asked = RunAsked()

    async def forget_when_left(self) -> None:
        """Remove everything when nobody has looked for half an hour; until cancelled."""
        while True:
            await asyncio.sleep(_LOOKED_AT_EVERY_S)
            left = time.monotonic() - self._touched_s > _FORGOTTEN_AFTER_S
            if left and self._pictures and not (self._run is not None and self._run.running):
                log.info("models: nobody looked for half an hour; pictures and results are removed")
                await self._forget()

    async def _cleanup(self, _: web.Application) -> None:
        await self._forget()


async def _received(request: web.Request, path: Path, most: int) -> None:
    """Write a request's body to a file.

    Raises:
        HTTPRequestEntityTooLarge: it states, or has, more than ``most`` bytes.
        HTTPUnsupportedMediaType: it is not sent as bytes, which forms of other sites cannot do.
        HTTPRequestTimeout: it does not arrive.
    """
    if request.content_type != "application/octet-stream":
        raise web.HTTPUnsupportedMediaType(text="application/octet-stream is expected")
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0, text="this file is too large")
    size = 0
    try:
        async with asyncio.timeout(_MOST_UPLOAD_S):
            with path.open("wb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise web.HTTPRequestEntityTooLarge(most, size, text="this file is too large")
                    await asyncio.to_thread(file.write, chunk)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text="the file did not arrive in time") from error
    except OSError as error:
        raise web.HTTPInsufficientStorage(text=f"the file cannot be stored ({error.strerror})") from error
    if not size:
        raise web.HTTPBadRequest(text="the file is empty")


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if head in _MAGIC:
        return _MAGIC[head]
    if is_dicom(path):
        return ".dcm"
    raise web.HTTPUnsupportedMediaType(text="not an X-ray that is read: DICOM, 16-bit PNG or TIFF, .npy")


def _zipped(path: Path, folder: Path) -> Path:
    if not path.exists():
        with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for each in sorted(folder.iterdir()):
                archive.write(each, each.name)
    return path


async def serve_models(
    section: DisplaySection, keep: Path | None, jigs: tuple[Jig, ...], ready: Callable[[int], None]
) -> None:
    """Serve the page until cancelled.

    Args:
        keep: copies of results go into new folders here; None: nothing is kept.
        jigs: measured jigs to choose from.
        ready: called with the port once the page is served.

    Raises:
        ConfigError: the port is in use.
    """
    with TemporaryDirectory(prefix="navnode-models-") as folder:
        desk = Desk(section, Path(folder), keep, jigs)
        async with serving(desk.application(), desk.connections, section, "--port") as port:
            ready(port)
            await desk.forget_when_left()
