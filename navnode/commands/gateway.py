"""``navnode gateway``: DICOM and video as OpenIGTLink, by hand."""

from __future__ import annotations

import asyncio

import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui, say
from navnode.config import DicomSource, VideoSource
from navnode.gateways.requests import DicomGatewayRequest, VideoGatewayRequest

app = typer.Typer()
gateway = typer.Typer(
    help="Serve what a C-arm sends by DICOM, or shows as video, as OpenIGTLink.", no_args_is_help=True
)
app.add_typer(gateway, name="gateway")

_DICOM = (
    "navnode gateway dicom --ae-title NAVNODE --caller CARM1 --listen-port 11112 --port 18947",
    "navnode gateway dicom --store ct --listen 10.0.0.5 --tls-certificate a.pem --tls-key a.key "
    "--tls-authorities b.pem",
)
_VIDEO = (
    "navnode gateway video --input /dev/video0 --standard pal --interlace bob --region 140,20,560,536 --port 18948",
    "navnode gateway video --input run.avi --preset carm.toml",
)


@command(gateway, DicomGatewayRequest, example=_DICOM)
def dicom(request: DicomGatewayRequest, ui: Ui) -> None:
    """Take X-rays in by DICOM (a storage SCP), and serve them as OpenIGTLink; CT series go to a folder."""
    _serve(request.source(), request.device, request.seconds, ui)


@command(gateway, VideoGatewayRequest, example=_VIDEO)
def video(request: VideoGatewayRequest, ui: Ui) -> None:
    """Take a capture card, a network stream or a file in, and serve it as OpenIGTLink."""
    _serve(request.source(), request.device, request.seconds, ui)


def _serve(source: DicomSource | VideoSource, device: str, seconds: float | None, ui: Ui) -> None:
    from navnode.gateways.serving import serve

    def ready(port: int) -> None:
        say(f"OpenIGTLink on port {port}, device {device}; Ctrl-C ends it.")

    report = asyncio.run(serve(source, device, seconds=seconds, on_ready=ready))
    said = f"{report.pictures} pictures, {report.held} held, {report.refused} refused"
    ui.done(report, f"{said}; {report.problem}" if report.problem else said)
