"""``navnode calibrate``: thin commands around the routines."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperCommand

from calibration import SUMMARY, exchange, inputs
from calibration import carm as carm_
from calibration import distortion as distortion_
from calibration import flatfield as flatfield_
from calibration import flex as flex_
from calibration import handeye as handeye_
from calibration import patient as patient_
from calibration import phantom as phantom_
from calibration import pivot as pivot_
from calibration import spin as spin_
from calibration import temporal as temporal_
from calibration import tool as tool_
from calibration.collect import Heard, collect
from calibration.inputs import Files, Poses
from calibration.verdict import Calibration
from navnode.clock import now_ns
from navnode.commands.options import address
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts, whole
from navnode.files.views import read_views
from navnode.files.volumes import read_mesh
from navnode.geometry import carm_document
from navnode.projector.native import default_threads
from navnode.types import Array
from navnode.xray.correction import read_flat_field

app = typer.Typer(
    name="calibrate",
    help=SUMMARY,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MEASURED = "Measurement"
_OUT = "What is written"
_VALID_DAYS = {"pivot": 30.0, "spin": 30.0, "tool": 365.0, "patient": 1.0, "phantom": 1.0, "flatfield": 7.0}
"""Unless --valid-days says otherwise; others 90."""
_DEFAULT_DAYS = 90.0
_NS_PER_DAY = 86_400_000_000_000

FRAMES: dict[str, dict[str, str]] = {
    "pivot": {"tip_mm": "tool", "pivot_mm": "tracker, or the reference"},
    "spin": {"axis": "tool", "axis_point_mm": "tool"},
    "carm": {"carm": "image", "views": "phantom"},
    "flex": {"at": "volume"},
    "handeye": {"marker_from_carm": "carm to marker"},
    "patient": {"volume_from_patient": "patient marker to volume (RAS)"},
    "phantom": {"measured_mm": "volume (RAS)"},
    "tool": {"markers_mm": "tool"},
}
UNITS = {"mm": "millimetre", "rad": "radian", "px": "pixel", "ns": "nanosecond"}


class Run:
    """One call of a routine: where its data come from, and what becomes of its answer."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind = kind
        self.files = Files()
        self.now_ns = now_ns()
        self._options = options
        self.gates = _gates(options["gate"])
        self.seed: int = options["seed"]
        self._recording: Path | None = options["recording"]
        self._live = None if options["live"] is None else address(options["live"], "--live")
        if self._live is not None and self._recording is not None:
            raise ConfigError("give --live or --recording, not both")
        self._devices = _devices(options["device"])
        self._heard: Heard | None = None
        self._most_rows: int | None = None
        self._times: Array | None = None

    def poses(self, name: str, given: Path | None, *, required: bool = True) -> Poses | None:
        """A series of poses: of a file, or of the device that ``--device`` says for it; rows of one recording, or of
        what was heard live, correspond."""
        if given is not None:
            return inputs.poses(given, self.files)
        device = self._device(name)
        if device is None:
            if required:
                raise ConfigError(
                    f"{_spelled(name)} is missing: a file, or --recording or --live with --device {name}=NAME"
                )
            return None
        found = self._series(device)
        if self._times is not None:
            return inputs.at_times(found, self._times)
        self._times = found.times_s
        return found

    def at_shots(self, shots: Poses) -> Poses:
        """Poses of X-rays; what else is recorded or heard is asked for at their times."""
        if shots.times_s is not None and shots.times_s.any():
            self._times = shots.times_s
        return shots

    def _series(self, device: str) -> Poses:
        if self._heard is not None:
            return self._heard.series(device, self._most_rows if self._times is None else None)
        assert self._recording is not None
        return inputs.recorded_poses(self._recording, device, self.files)

    def frames(self, name: str) -> inputs.Pictures | None:
        """The pictures of the device that ``--device`` says for it, if it does."""
        device = self._device(name)
        if device is None:
            return None
        if self._heard is not None:
            return self._heard.pictures(device)
        assert self._recording is not None
        return inputs.recorded_frames(self._recording, device, self.files)

    def _device(self, name: str) -> str | None:
        if self._recording is None and self._live is None:
            return None
        return self._devices.get(name, self._devices.get("") if name == "poses" else None)

    def collected(self, routine: Callable[[], Calibration]) -> Calibration:
        """The routine's answer; with ``--live`` after collecting what it needs."""
        if self._live is None:
            return routine()
        if not self._devices:
            raise ConfigError("--live needs --device")

        def judge(heard: Heard, most: int | None) -> Calibration:
            self._heard, self._most_rows, self._times = heard, most, None
            return routine()

        seconds = self._options["seconds"]
        heard = collect(*self._live, self._devices, judge, seconds=seconds, terminal=Console(stderr=True))
        return judge(heard, None)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[float], None]]:
        """A bar on the terminal, where there is one."""
        terminal = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda share: bar.update(task, completed=share)

    def finish(self, found: Calibration) -> None:
        """Print the answer, write what passed, and end with 1 if it did not."""
        options = self._options
        document = found.document()
        out: Path | None = options["out"]
        if found.passed and out is not None:
            self._write(found, document, out)
        report: Path | None = options["report"]
        if report is not None:
            from calibration.report import page

            text = page(found, self.files.paths, of=options["device_of"])
            whole.write_whole(report, text.encode())
        if options["as_json"]:
            from navnode.commands.options import print_json

            print_json(document)
        else:
            _show(found, document, out)
        if not found.passed:
            typer.echo(f"navnode: {found.reason}", err=True)
            raise typer.Exit(1)

    def _write(self, found: Calibration, document: dict[str, Any], out: Path) -> None:
        options = self._options
        if found.arrays:  # a flat field's pictures are the artifact
            packed = io.BytesIO()
            np.savez(packed, **found.arrays)
            whole.write_whole(out, packed.getvalue())
            document["result"]["out"] = str(out)
            return
        days = options["valid_days"]
        days = _VALID_DAYS.get(self.kind, _DEFAULT_DAYS) if days is None else days
        artifact = artifacts.Artifact(
            kind=found.kind, status=document["status"], result=document["result"], quality=document["quality"],
            device=options["device_of"], mode=options["mode"], created_ns=self.now_ns,
            expires_ns=self.now_ns + round(days * _NS_PER_DAY) if days else 0,
            inputs={str(path): artifacts.hashed(path) for path in self.files.paths},
            frames=FRAMES.get(found.kind, {}), units=UNITS,
        )  # fmt: skip
        artifacts.write(out, artifact)
        if found.kind == "carm":  # as other programs read it
            plain = msgspec.json.format(msgspec.json.encode(document["result"]["carm"]), indent=1) + b"\n"
            whole.write_whole(out.with_suffix(".carm.json"), plain)


def _common(
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="KEY=VALUE", help="Another limit; repeat for several.", rich_help_panel=_MEASURED
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is tried by chance.", rich_help_panel=_MEASURED)] = 0,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--recording",
            metavar="SESSION",
            help="Take poses from a recording (.mcap, or a folder of them) instead.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="[OPTION=]NAME",
            help="A device that is recorded or heard; which option it is for, where there are several.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="HOST:PORT",
            help="Collect over OpenIGTLink, with guidance, until it is enough.",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Collect no longer than this.", rich_help_panel=_MEASURED)
    ] = 120.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="ARTIFACT", help="Write the calibration, if it passed.", rich_help_panel=_OUT),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="REPORT.html", help="Write a page with plots.", rich_help_panel=_OUT),
    ] = None,
    device_of: Annotated[
        str, typer.Option("--of", metavar="NAME", help="Which tool, C-arm or detector it is.", rich_help_panel=_OUT)
    ] = "",
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="The detector's mode.", rich_help_panel=_OUT)
    ] = "",
    valid_days: Annotated[
        float | None, typer.Option("--valid-days", min=0, help="It expires after this; 0: never.", rich_help_panel=_OUT)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
    ] = False,
) -> None:
    """What every routine is told beside its own."""


class _Command(TyperCommand):
    """``--tip`` takes three numbers, or the calibration that found them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for n, text in enumerate(args[:-1]):
            if text == "--tip" and not _is_number(args[n + 1]):
                args = [*args[:n], "--pivot", *args[n + 1 :]]
                break
        return super().parse_args(ctx, args)


def _command(example: str) -> Callable[[Callable[..., Calibration]], Callable[..., None]]:
    """A command of a function ``(run, its own options) -> Calibration``; the common options are added to it."""

    def made(function: Callable[..., Calibration]) -> Callable[..., None]:
        common = inspect.signature(_common).parameters
        own = list(inspect.signature(function).parameters.values())[1:]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            options = {name: given.pop(name) for name in common}
            run = Run(function.__name__.rstrip("_"), options)
            run.finish(run.collected(lambda: function(run, **given)))

        hints = {**get_type_hints(function, include_extras=True), **get_type_hints(_common, include_extras=True)}
        hints.pop("run")
        command.__annotations__ = {**hints, "return": None}
        told: Any = command
        told.__signature__ = inspect.Signature(
            [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *common.values()]]
        )
        app.command(name=function.__name__.rstrip("_"), epilog=f"Example:  navnode calibrate {example}", cls=_Command)(
            command
        )
        return command

    return made


_Poses = Annotated[Path | None, typer.Argument(metavar="POSES", help="tracker_from_tool: .npy (N, 4, 4) or CSV.")]
_Tip = Annotated[
    tuple[float, float, float] | None, typer.Option("--tip", metavar="X Y Z", help="The tip, tool frame, mm.")
]
_Pivot = Annotated[
    Path | None, typer.Option("--pivot", metavar="PIVOT.json", help="The pivot calibration that found the tip.")
]
_Points = Annotated[Path, typer.Option(metavar="CSV", help="label,x_mm,y_mm,z_mm")]


@_command("pivot stylus.npy --of Stylus --out stylus.json")
def pivot(
    run: Run,
    poses: _Poses = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="POSES", help="tracker_from_reference, same rows, if the divot may move."),
    ] = None,
    no_reject: Annotated[bool, typer.Option("--no-reject", help="Keep every row, for comparison with others.")] = False,
) -> Calibration:
    """A tool's tip: rest it in a divot, and turn the tool about it in every direction."""
    tracker_from_tool = run.poses("poses", poses)
    assert tracker_from_tool is not None
    other = run.poses("reference", reference, required=False)
    if other is not None:
        _same_rows("--reference", other.poses, tracker_from_tool.poses)
    return pivot_.pivot(
        tracker_from_tool.poses, None if other is None else other.poses, gates=run.gates, reject=not no_reject
    )


@_command("spin drill.npy --pivot drill-pivot.json --out drill-axis.json")
def spin(run: Run, poses: _Poses = None, tip: _Tip = None, pivot: _Pivot = None) -> Calibration:
    """A tool's axis: turn it about its own axis, as in a bearing."""
    tracker_from_tool = run.poses("poses", poses)
    assert tracker_from_tool is not None
    return spin_.spin(tracker_from_tool.poses, _tip(run, tip, pivot), gates=run.gates)


@_command("carm --views shots.json --phantom beads.json --out carm.json")
def carm(
    run: Run,
    phantom: Annotated[Path, typer.Option("--phantom", metavar="PH.json", help="navnode/phantom/1: its beads.")],
    views: Annotated[
        Path | None, typer.Option("--views", metavar="V.json", help="Shots of the phantom; carm as its maker says.")
    ] = None,
    nominal: Annotated[
        Path | None,
        typer.Option("--carm", metavar="C.json", help="navnode/carm/1, as its maker says; for shots from elsewhere."),
    ] = None,
    distortion: Annotated[
        str,
        typer.Option(help=f"auto: the simplest that explains shots left out; or {', '.join(distortion_.MODELS)}."),
    ] = "auto",
    per_shot: Annotated[
        bool,
        typer.Option("--per-shot", help="Distance and principal point of every shot by itself, too: what flex needs."),
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads for computing; 0: all cores.")] = 0,
) -> Calibration:
    """Source, detector and distortion, from shots of a bead phantom."""
    beads = inputs.bead_phantom(phantom, run.files)
    if views is not None:
        shots = read_views(run.files.read(views))
        for shot in shots:
            if shot.path is not None:
                run.files.read(shot.path)
        given = [
            carm_.PhantomShot(
                shot.counts(), shot.carm, shot.volume_from_carm, shot.i0, shot.timestamp_ns, shot.angles_rad
            )
            for shot in shots
        ]
    else:
        seen = run.frames("views")
        if seen is None or nominal is None:
            raise ConfigError("--views is missing, or --recording or --live with --device views=NAME, and --carm")
        geometry = inputs.carm(nominal, run.files)
        given = [
            carm_.PhantomShot(
                seen.counts[n],
                geometry,
                timestamp_ns=round(1e9 * float(seen.times_s[n])),
                angles_rad=seen.angles_rad[n],
            )
            for n in inputs.different(seen.counts)
        ]
    with run.progress("Looking for beads") as progress:
        return carm_.carm(
            given, beads.ids, beads.positions_mm, beads.diameters_mm, distortion=distortion, per_shot=per_shot,
            gates=run.gates, seed=run.seed, threads=threads or default_threads(), progress=progress,
        )  # fmt: skip


@_command("handeye --marker marker.npy --xray shots.json --out handeye.json")
def handeye(
    run: Run,
    marker: Annotated[Path | None, typer.Option("--marker", metavar="POSES", help="tracker_from_marker.")] = None,
    xray: Annotated[
        Path | None,
        typer.Option("--xray", metavar="POSES|V.json", help="phantom_from_carm; or what `calibrate carm` wrote."),
    ] = None,
    phantom_marker: Annotated[
        Path | None,
        typer.Option("--phantom-marker", metavar="POSES", help="tracker_from_phantom_marker, if the phantom moves."),
    ] = None,
    phantom_marker_from_phantom: Annotated[
        Path | None,
        typer.Option(
            "--phantom-marker-from-phantom", metavar="M.npy", help="If it is known; three rows are enough then."
        ),
    ] = None,
) -> Calibration:
    """Where the tracked marker on the C-arm is, seen from the X-ray source."""
    if xray is not None and xray.suffix.lower() == ".json":
        b: Poses | None = run.at_shots(inputs.shots(xray, run.files, run.now_ns))
        a = run.poses("marker", marker)
    else:
        a = run.poses("marker", marker)
        b = run.poses("xray", xray)
    c = run.poses("phantom-marker", phantom_marker, required=False)
    known = None if phantom_marker_from_phantom is None else inputs.matrix(phantom_marker_from_phantom, run.files)
    assert a is not None and b is not None
    return handeye_.handeye(a.poses, b.poses, None if c is None else c.poses, known, gates=run.gates, seed=run.seed)


@_command("flex --views sweep.json --at angles.csv --out flex.json")
def flex(
    run: Run,
    views: Annotated[
        Path,
        typer.Option(
            "--views",
            metavar="V.json",
            help="Shots of a fixed phantom, each with carm, volume_from_carm and angles_rad; or what "
            "`calibrate carm --per-shot` wrote.",
        ),
    ],
    at: Annotated[
        Path | None,
        typer.Option("--at", metavar="ANGLES.csv", help="orbital_rad,angulation_rad where the geometry is wanted."),
    ] = None,
) -> Calibration:
    """How the C-arm bends: its geometry at any angle."""
    shots = inputs.bent_shots(views, run.files, run.now_ns)
    return flex_.flex(*shots, None if at is None else inputs.angles(at, run.files), gates=run.gates)


@_command("patient --volume-points planned.csv --patient-points touched.csv --targets targets.csv --out patient.json")
def patient(
    run: Run,
    volume_points: _Points,
    patient_points: Annotated[
        Path | None, typer.Option(metavar="CSV", help="label,x_mm,y_mm,z_mm in the patient marker's frame.")
    ] = None,
    stylus: Annotated[
        Path | None,
        typer.Option(metavar="POSES", help="tracker_from_stylus while the points are touched in their order, instead."),
    ] = None,
    patient_marker: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_patient, same rows as --stylus.")
    ] = None,
    tip: _Tip = None,
    pivot: _Pivot = None,
    surface: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Points touched on the bone, patient frame.")
    ] = None,
    mesh: Annotated[Path | None, typer.Option(metavar="M.stl", help="The bone in the volume.")] = None,
    targets: Annotated[Path | None, typer.Option(metavar="CSV", help="Where the error matters.")] = None,
    fle_mm: Annotated[float | None, typer.Option(help="Localisation error of a point, rms, if it is known.")] = None,
) -> Calibration:
    """Where the patient is: points touched, paired by their labels, and a surface."""
    if (surface is None) != (mesh is None):
        raise ConfigError("--surface and --mesh belong together")
    if fle_mm is not None and not fle_mm > 0:
        raise ConfigError("--fle-mm must be positive")
    planned = inputs.points(volume_points, run.files)
    if patient_points is not None:
        touched = inputs.points(patient_points, run.files)
    else:
        a, b = run.poses("stylus", stylus), run.poses("patient-marker", patient_marker)
        at = _tip(run, tip, pivot)
        if at is None:
            raise ConfigError("--patient-points is missing, or --stylus, --patient-marker and --tip")
        assert a is not None and b is not None
        tips = phantom_.tips_in_patient(a.poses, b.poses, at)
        touched = patient_.touched_in_order(planned, phantom_.steady_places(tips))
    return patient_.patient(
        planned, touched,
        surface_points_mm=None if surface is None else inputs.cloud(surface, run.files),
        mesh=None if mesh is None else read_mesh(run.files.read(mesh)),
        targets_mm=None if targets is None else inputs.points(targets, run.files), fle_mm=fle_mm, gates=run.gates,
    )  # fmt: skip


@_command("temporal --tracker marker.csv --frames shots.npy --frame-times times.csv --out latency.json")
def temporal(
    run: Run,
    tracker: Annotated[
        Path | None, typer.Option(metavar="POSES|CSV", help="Poses with times, or timestamp_s,value.")
    ] = None,
    signal: Annotated[Path | None, typer.Option(metavar="CSV", help="The image's motion: timestamp_s,value.")] = None,
    frames: Annotated[
        Path | None, typer.Option(metavar="S.npy", help="Pictures (N, H, W) in which motion is found.")
    ] = None,
    frame_times: Annotated[Path | None, typer.Option(metavar="CSV", help="timestamp_s of every picture.")] = None,
    max_lag_s: Annotated[float, typer.Option("--max-lag-s", help="Search so far, both ways.")] = 0.5,
) -> Calibration:
    """How much later images are stamped than tracker poses."""
    moved: Array
    if tracker is not None and inputs.has_signal_header(tracker):
        times, moved = inputs.signal(tracker, run.files)
    else:
        found = run.poses("tracker", tracker)
        assert found is not None
        if found.times_s is None:
            raise ConfigError(f"{tracker}: poses without times; give a CSV with timestamp_s")
        times, moved = found.times_s, found.poses
    if sum(given is not None for given in (signal, frames)) > 1 or (frames is None) != (frame_times is None):
        raise ConfigError("give --signal, or --frames with --frame-times")
    if signal is not None:
        seen = inputs.signal(signal, run.files)
    elif frames is not None and frame_times is not None:
        seen = inputs.times(frame_times, run.files), inputs.stack(frames, run.files)
    else:
        pictures = run.frames("frames")
        if pictures is None:
            raise ConfigError("--signal or --frames is missing, or --recording with --device frames=NAME")
        seen = pictures.times_s, pictures.counts
    return temporal_.temporal(times, moved, *seen, max_lag_s=max_lag_s, gates=run.gates)


@_command("flatfield --dark dark.npy --flat flat.npy --out detector.npz")
def flatfield(
    run: Run,
    dark: Annotated[Path, typer.Option(metavar="D.npy", help="(N, H, W) without X-rays, or a folder of PNG.")],
    flat: Annotated[
        Path, typer.Option(metavar="F.npy", help="(N, H, W) with nothing in the beam, or a folder of PNG.")
    ],
    saturation: Annotated[float | None, typer.Option(min=1, help="Counts from which on a pixel is saturated.")] = None,
) -> Calibration:
    """What the detector adds: dark, gain, bad pixels."""
    return flatfield_.flatfield(
        inputs.stack(dark, run.files), inputs.stack(flat, run.files), saturation=saturation, gates=run.gates
    )


@_command(
    "phantom --targets targets.csv --stylus s.npy --patient-marker p.npy --tip stylus.json "
    "--volume-from-patient patient.json"
)
def phantom(
    run: Run,
    targets: _Points,
    measured: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Measured places in the volume, by label.")
    ] = None,
    stylus: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_stylus while the targets are touched.")
    ] = None,
    patient_marker: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_patient, same rows.")
    ] = None,
    tip: _Tip = None,
    pivot: _Pivot = None,
    volume_from_patient: Annotated[
        Path | None, typer.Option(metavar="M.npy|PATIENT.json", help="The patient's registration.")
    ] = None,
) -> Calibration:
    """Verify the whole chain on fresh targets: they are touched in their order, and nothing is fitted."""
    places = inputs.points(targets, run.files)
    if measured is not None:
        if stylus is not None or patient_marker is not None:
            raise ConfigError("give --measured, or --stylus and --patient-marker")
        return phantom_.phantom(places, inputs.points(measured, run.files), gates=run.gates)
    a, b = run.poses("stylus", stylus), run.poses("patient-marker", patient_marker)
    assert a is not None and b is not None
    at = _tip(run, tip, pivot)
    if at is None or volume_from_patient is None:
        raise ConfigError("--tip and --volume-from-patient are needed with --stylus")
    registration = inputs.result_or_matrix(volume_from_patient, "patient", "volume_from_patient", run.files, run.now_ns)
    return phantom_.phantom_from_stream(places, a.poses, b.poses, at, registration, gates=run.gates)


@_command("tool spheres.csv --of Drill --out drill-marker.json")
def tool(
    run: Run,
    points: Annotated[
        Path, typer.Argument(metavar="POINTS.csv", help="frame,x_mm,y_mm,z_mm: unlabelled spheres, tool at rest.")
    ],
) -> Calibration:
    """A marker's template: where its spheres are."""
    return tool_.tool(inputs.frames(points, run.files), gates=run.gates)


@app.command("import", epilog="Example:  navnode calibrate import PlusDeviceSet.xml --json")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"Read are {exchange.READS}.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=".json for a C-arm, .csv for points, .npy for a transform."),
    ] = None,
    a: Annotated[str, typer.Option("--from", metavar="NAME", help="Which transform, if there are several.")] = "",
    b: Annotated[str, typer.Option("--to", metavar="NAME", help="Which transform, if there are several.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """What another program's calibration file says, in our words: RAS, millimetres, to_from_from."""
    found = exchange.read(file)
    if out is not None:
        _write_imported(found, out, a, b)
    if as_json:
        from navnode.commands.options import print_json

        print_json(found.document())
        return
    table = Table.grid(padding=(0, 2))
    for (source, target), matrix in found.transforms.items():
        table.add_row(f"[bold]{target}_from_{source}[/]", np.array2string(matrix, precision=4, suppress_small=True))
    for label, at in found.points_mm.items():
        table.add_row(f"[bold]{label}[/]", np.array2string(at, precision=3))
    for device, lag in found.lags_s.items():
        table.add_row(f"[bold]{device}[/]", f"{1e3 * lag:.1f} ms late")
    if found.carm is not None:
        table.add_row("[bold]carm[/]", str(found.carm))
    if found.angles_deg is not None:
        table.add_row("[bold]angles[/]", "orbital {:.1f}, angulation {:.1f} degrees".format(*found.angles_deg))
    Console().print(table)


@app.command("export", epilog="Example:  navnode calibrate export stylus.json --out PlusDeviceSet.xml")
def export(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A calibration.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help=f"Written are {exchange.WRITES}.")],
) -> None:
    """A calibration in another program's format; a PLUS device set that is there is changed, not replaced."""
    found = artifacts.read(artifact)
    if problem := artifacts.wrong(found, found.kind, now_ns()):
        raise CalibrationError(f"{artifact}: {problem}")
    exchange.write(found, out)
    Console(stderr=True).print(f"written to {out}", markup=False, highlight=False)


def _write_imported(found: exchange.Exchanged, out: Path, a: str, b: str) -> None:
    if out.suffix == ".npy":
        some = {pair: matrix for pair, matrix in found.transforms.items() if a in ("", pair[0]) and b in ("", pair[1])}
        if len(some) != 1:
            there = ", ".join(f"{source} to {target}" for source, target in found.transforms) or "none"
            raise ConfigError(f"{out}: one transform is written; name it with --from and --to; there are: {there}")
        packed = io.BytesIO()
        np.save(packed, next(iter(some.values())))
        whole.write_whole(out, packed.getvalue())
    elif out.suffix == ".csv":
        lines = ["label,x_mm,y_mm,z_mm", *(f"{k},{v[0]:.9g},{v[1]:.9g},{v[2]:.9g}" for k, v in found.points_mm.items())]
        whole.write_whole(out, ("\n".join(lines) + "\n").encode())
    elif out.suffix == ".json" and found.carm is not None:
        document = msgspec.json.format(msgspec.json.encode(carm_document(found.carm)), indent=1)
        whole.write_whole(out, document + b"\n")
    else:
        raise ConfigError(f"{out}: .json for a C-arm, .csv for points, .npy for a transform, and the file must have it")


@app.command(epilog="Example:  navnode calibrate show stylus.json")
def show(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A calibration.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Print a calibration."""
    found = artifacts.read(artifact)
    if as_json:
        from navnode.commands.options import print_json

        print_json(msgspec.to_builtins(found))
        return
    console = Console()
    table = Table.grid(padding=(0, 2))
    day = 1e9 * 86400
    for name, value in (
        ("kind", found.kind), ("status", found.status), ("of", found.device), ("mode", found.mode),
        ("age", f"{(now_ns() - found.created_ns) / day:.1f} days" if found.created_ns else ""),
        ("expires in", f"{(found.expires_ns - now_ns()) / day:.1f} days" if found.expires_ns else "never"),
        ("inputs", ", ".join(found.inputs)),
    ):  # fmt: skip
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    _print_figures(console, found.result, found.quality)


@app.command(epilog="Example:  navnode calibrate check stylus.json handeye.json")
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Calibrations.")],
    device_of: Annotated[str, typer.Option("--of", metavar="NAME", help="They must be of this device.")] = "",
    mode: Annotated[str, typer.Option("--mode", metavar="MODE", help="They must be of this detector mode.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Verify calibrations anew: verdict, age, device, and whether the files that they rest on are still the same."""
    told = {str(path): _wrong_now(path, device_of, mode) for path in paths}
    if as_json:
        from navnode.commands.options import print_json

        print_json({"artifacts": [{"path": path, "usable": not why, "reason": why} for path, why in told.items()]})
    else:
        for path, why in told.items():
            Console().print(f"{path}: {why or 'fine'}", markup=False, highlight=False)
    if any(told.values()):
        raise typer.Exit(1)


def _wrong_now(path: Path, device_of: str, mode: str) -> str:
    if path.suffix == ".npz":
        try:
            read_flat_field(path)
        except CalibrationError as error:
            return str(error)
        return ""
    found = artifacts.read(path)
    if problem := artifacts.wrong(found, found.kind, now_ns(), device=device_of, mode=mode):
        return problem
    for name, digest in found.inputs.items():
        given = Path(name)
        if given.is_file() and artifacts.hashed(given) != digest:
            return f"{name}, which it was made of, is another file now"
    return ""


def _same_rows(option: str, a: Array, b: Array) -> None:
    if len(a) != len(b):
        raise ConfigError(f"{option} has {len(a)} rows, the poses {len(b)}: they must correspond")


def _tip(run: Run, tip: tuple[float, float, float] | None, pivot: Path | None) -> Array | None:
    if tip is not None and pivot is not None:
        raise ConfigError("give --tip or --pivot, not both")
    if pivot is None:
        if tip is not None and not (np.isfinite(tip).all() and any(tip)):
            raise ConfigError("--tip: three finite numbers, not all 0")
        return None if tip is None else np.array(tip)
    return inputs.result_or_matrix(pivot, "pivot", "tip_mm", run.files, run.now_ns).ravel()


def _gates(given: list[str] | None) -> dict[str, float]:
    found = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not _is_number(value):
            raise ConfigError(f"--gate {text}: KEY=VALUE, the value a number")
        found[key] = float(value)
    return found


def _devices(given: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given or []:
        option, equals, name = text.rpartition("=")
        key = option.lstrip("-") if equals else ""
        if key in found:
            raise ConfigError(f"--device {text}: {_spelled(key) if key else 'a device'} is named twice")
        found[key] = name
    return found


def _spelled(name: str) -> str:
    return "POSES" if name == "poses" else f"--{name}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _show(found: Calibration, document: dict[str, Any], out: Path | None) -> None:
    console = Console()
    _print_figures(console, document["result"], document["quality"])
    if found.passed:
        kept = f"; written to {out}" if out is not None else "; nothing was written (--out)"
        console.print(f"[bold green]PASS[/]{kept}", highlight=False)
    else:
        console.print("[bold red]FAIL[/]", highlight=False)


def _print_figures(console: Console, result: dict[str, Any], quality: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    gates: dict[str, float] = quality.get("gates", {})
    for name, value in [*result.items(), *quality.items()]:
        if name == "gates":
            continue
        limit = f"gate {gates[name]:g}" if name in gates else ""
        table.add_row(f"[bold]{name}[/]", _brief(value), limit)
    console.print(table)


def _brief(value: Any) -> str:
    """A value of a document, short enough for a line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        parts = [f"{name} {_brief(part)}" for name, part in list(value.items())[:12]]
        return ", ".join(parts) + (" ..." if len(value) > 12 else "")
    if isinstance(value, list):
        if any(isinstance(part, list | dict) for part in value) and len(value) > 4:
            return f"({len(value)})"
        if len(value) > 12:
            return f"[{', '.join(_brief(part) for part in value[:4])}, ...] ({len(value)})"
        return f"[{', '.join(_brief(part) for part in value)}]"
    return "-" if value is None else str(value)
