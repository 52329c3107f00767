"""Draws the reports of benchmarks as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from rich.table import Table
from rich.text import Text

from navnode.commands.ui import standard_output

if TYPE_CHECKING:  # a benchmark's module is loaded only when it runs
    from navnode.bench.archive import ArchiveFigures
    from navnode.bench.bodies import BodiesReport
    from navnode.bench.capacity import Capacity
    from navnode.bench.gpu import GpuReport
    from navnode.bench.history import Entry
    from navnode.bench.igtl import IgtlReport, LinkFigures
    from navnode.bench.models import ModelBench
    from navnode.bench.projector import ProjectorReport
    from navnode.bench.real import RealReport
    from navnode.bench.registration import Rate, RegistrationReport
    from navnode.bench.sizes import SizesReport
    from navnode.bench.trust import TrustReport
    from navnode.bench.volumes import ReconstructionReport


def draw_all(made: Entry) -> None:
    """One row a figure."""
    table = Table("", "median", "repeats differ by", "times as fast as", title=f"{made.machine}, {made.runs} runs")
    for name, figure in made.figures.items():
        value = f"{figure.value:g}" if figure.peer else f"{figure.value:g} {figure.unit}"
        table.add_row(name, value, f"± {figure.spread:.0%}", figure.peer)
    standard_output().print(table)


def draw_archive(report: ArchiveFigures) -> None:
    """One row a number of sessions."""
    table = Table(title=f"Sessions of {report.seconds:g} s, {report.workers} workers, archived in {report.to}")
    for name in report.scales[0].__struct_fields__:
        table.add_column(name.replace("_", " "))
    for scale in report.scales:
        table.add_row(*(f"{getattr(scale, name):g}" for name in scale.__struct_fields__))
    standard_output().print(table)


def draw_gpu(report: GpuReport) -> None:
    """One row a check."""
    table = Table("", "", "figures, or why not", title=report.gpu or "no NVIDIA GPU responds")
    colours = {"passed": "green", "failed": "red", "skipped": "dim"}
    for name, check in report.checks.items():
        figures = ", ".join(f"{what} {value:g}" for what, value in check.figures.items())
        table.add_row(name, Text(check.status, colours[check.status]), check.reason or figures)
    standard_output().print(table)


def draw_igtl(report: IgtlReport) -> None:
    """One row a scenario, one column an implementation."""
    table = Table(title="OpenIGTLink over loopback")
    for column in ("", *report.implementations):
        table.add_column(column)
    for name, by in report.results.items():
        table.add_row(name, *(_bench_cell(by[i]) for i in report.implementations))
    standard_output().print(table)
    ratios = "   ".join(f"{name}: {ratio:g}x" for name, ratio in report.ratios.items())
    standard_output().print(f"Speed relative to the others: {ratios}", highlight=False)


def draw_projector(report: ProjectorReport) -> None:
    """One row a direction, one column an implementation."""
    size = f"{report.voxels}³ to {report.image_px}², {report.threads} threads, median ms"
    every = list(report.directions.values())
    ways = (name.replace(" with derivatives", "+d") for name in every[0].ms)
    table = Table("direction", *ways, "error", title=size)
    for name, figures in report.directions.items():
        table.add_row(name, *(f"{ms:.1f}" for ms in figures.ms.values()), f"{figures.error:.1e}")
    standard_output().print(table)
    lines = [
        "+d: with the six derivatives with respect to the pose",
        f"adjoint: dot products agree to {report.adjoint_error:.1e}",
    ]
    over = [figures.rtk_over for figures in every if figures.rtk_over is not UNSET]
    for isa in over[0] if over else ():
        ratios = [each[isa] for each in over]
        lines.append(f"RTK's forward takes {min(ratios):g} to {max(ratios):g} times as long as {isa} with derivatives")
    if report.nanodrr is not UNSET:
        lines.append(f"nanodrr's forward and backward take {report.nanodrr.ratio:g} times as long")
    standard_output().print("\n".join(lines), highlight=False)


def draw_sizes(report: SizesReport) -> None:
    """One row a volume, one column a detector; then threads, and registrations."""
    table = Table(
        "voxels", "MiB", "prepared, s", title=f"projection with derivatives, {report.threads} threads, median ms"
    )
    for side in report.projections[0].ms:
        table.add_column(f"{side}²")
    for row in report.projections:
        times = (f"{ms:.1f}" for ms in row.ms.values())
        table.add_row(f"{row.voxels}³", f"{row.memory_mib:g}", f"{row.prepared_s:.1f}", *times)
    standard_output().print(table)
    for what, times_ms in (("measured", report.by_threads_ms), ("by Amdahl's law", report.modelled_ms)):
        line = ", ".join(f"{count}: {ms:.1f}" for count, ms in times_ms.items())
        standard_output().print(f"256³ to 512² by threads, {what}, ms: {line or '-'}", highlight=False)
    table = Table(
        "CT", "detector", "prepared, s", "found, ms", "tracked, ms", title="registration of one X-ray, medians"
    )
    for each in report.registrations:
        cells = f"{each.prepared_s:.1f}", f"{each.found_ms:.1f}", f"{each.tracked_ms:.1f}"
        table.add_row(each.ct, f"{each.detector_px}²", *cells)
    standard_output().print(table)


def draw_capacity(report: Capacity) -> None:
    """What pieces cost, how far the simulation is from a run, and what it says of other machines."""
    costs = report.costs_ms
    lines = [
        f"processor time here, ms: X-ray {costs.xray:.1f}, in the loop {costs.xray_loop:.2f}, pose {costs.pose:.3f};",
        f"to a console, of a pose {costs.pose_message:.4f}, of an X-ray {costs.xray_message:.3f}; idle "
        f"{costs.idle_percent:g} %",
    ]
    for check in report.checks:
        load, seen, said = check.observed.load, check.observed, check.simulated
        lines += [
            f"{load.xrays_hz:g} X-rays/s, {load.tools} tools, {load.consoles} consoles, the room beside: "
            "measured / simulated",
            f"  X-ray to pose, p50 and p99, ms: {seen.xray_p50_ms:.1f}, {seen.xray_p99_ms:.1f} / "
            f"{_ms(said.xray_p50_ms)}, {_ms(said.xray_p99_ms)}",
            f"  pose to overlay, p50 and p99, ms: {seen.overlay_p50_ms:.1f}, {seen.overlay_p99_ms:.1f} / "
            f"{_ms(said.overlay_p50_ms)}, {_ms(said.overlay_p99_ms)}",
        ]
    standard_output().print("\n".join(lines), highlight=False)
    table = Table(
        *("rooms", "consoles each", "cores", "X-ray p50, p99 ms", "overlay p50, p99 ms", "registered", "shown", "busy"),
        title="simulated: 15 X-rays/s and 8 tools at 100 Hz in each room",
    )
    for each in report.simulated:
        table.add_row(
            *(str(each.rooms), str(each.load.consoles), str(each.cores)),
            f"{_ms(each.xray_p50_ms)}, {_ms(each.xray_p99_ms)}",
            f"{_ms(each.overlay_p50_ms)}, {_ms(each.overlay_p99_ms)}",
            *(f"{100 * share:.0f} %" for share in (each.registered, each.shown, each.busy)),
        )
    standard_output().print(table)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def draw_models(report: ModelBench) -> None:
    """Every limb, and all together."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    table = Table("limb", "status", "Dice (known)", "ASSD mm (known)", "focal %", "limb mm", "s", "bones: mm (stated)")
    for case in report.cases:
        jig, known = case.jig, case.known
        bones = (f"{bone.name} {bone.error_mm:.1f} ({text(bone.stated_mm, '.1f')})" for bone in jig.bones)
        table.add_row(
            case.name,
            jig.status,
            f"{text(jig.dice, '.3f')} ({text(known.dice, '.3f')})",
            f"{text(jig.assd_mm, '.2f')} ({text(known.assd_mm, '.2f')})",
            text(None if jig.focal_off is None else 100 * jig.focal_off, ".2f"),
            text(jig.limb_off_mm, ".2f"),
            f"{jig.elapsed_s:.1f}",
            ", ".join(bones),
        )
    standard_output().print(table)
    lines = [
        f"X-rays by {report.renderer}; medians: Dice {text(report.dice['jig'], '.3f')} with the jig, "
        f"{text(report.dice['known'], '.3f')} with known poses (lost: {text(report.dice_lost, '.3f')}); "
        f"ASSD {text(report.assd_mm['jig'], '.2f')} and {text(report.assd_mm['known'], '.2f')} mm",
        f"stated intervals that hold the error: {text(report.held, '.0%')} of {report.surfaces}",
        f"error of a third over the stated one (2.5, 50, 97.5 %): {report.regions_ratio}, {report.thirds} thirds",
    ]
    standard_output().print("\n".join(lines), highlight=False, markup=False)


def draw_trust(report: TrustReport) -> None:
    """False accepts by kind of trap, and what it costs."""
    table = Table("trap", "VALID and wrong", title="Single X-rays, before frames have to agree")
    for kind, found in report.by_kind.items():
        table.add_row(kind, _rate_text(found))
    standard_output().print(table)
    lines = [
        f"VALID and wrong: {_rate_text(report.false_accepts)}",
        f"right, but not VALID: {_rate_text(report.false_refusals)}",
        f"not registered, and said so: {_rate_text(report.unregistered)}",
        *(f"trap {row.number}: {row.kind} on {row.ct}, {row.lateral_mm} mm" for row in report.accepted),
    ]
    standard_output().print("\n".join(lines), highlight=False)


def draw_registration(report: RegistrationReport) -> None:
    """Errors by kind of start, and how reliable the verdicts are."""
    heads = ("start", "under 1 mm lateral", "lateral mm", "depth mm", "full mm", "ms", "sigma holds")
    table = Table(*heads, title="Medians")
    rows = {**report.singles, "two views together": report.joint, "tracked sequences": report.sequences}
    for name, row in rows.items():
        medians = [f"{part.median:.3f}" for part in (row.lateral_mm, row.depth_mm, row.full_mm)]
        holds = f"{row.sigma_holds.rate:.0%}"
        table.add_row(name, _rate_text(row.under_1_mm_lateral), *medians, f"{row.ms.median:.0f}", holds)
    standard_output().print(table)
    trust = Table("", "VALID or not", title="Trust")
    trust.add_row("right, but not VALID", _rate_text(report.quality.false_reject))
    trust.add_row("wrong, but VALID", _rate_text(report.quality.false_accept))
    for kind, rate in report.quality.wrong_image_valid.items():
        trust.add_row(f"{kind}: VALID", _rate_text(rate))
    standard_output().print(trust)
    unknown = report.unknown
    lines = [
        f"Tracking: {report.sequences.frames_per_s:g} frames/s",
        f"C-arm known roughly, two views: found {_rate_text(unknown.found)} in {unknown.ms.median / 1e3:.1f} s; "
        f"targets {unknown.located_mm.median:.3f} mm off, {unknown.located_known_mm.median:.3f} mm with it known; "
        f"sigma holds {_rate_text(unknown.sigma_holds)}",
    ]
    standard_output().print("\n".join(lines), highlight=False)


def draw_bodies(report: BodiesReport) -> None:
    """Two views, and one after another."""
    found, followed = report.found, report.followed
    table = Table("", "", title=f"{len(report.bodies)} bones of {report.ct}, {report.cases} pairs of X-rays")
    table.add_row("two views: within 1 mm and 1°", _rate_text(found.right))
    table.add_row("within 1 mm", _rate_text(found.near))
    table.add_row("VALID", _rate_text(found.valid))
    table.add_row("VALID, but over 2 mm off", _rate_text(found.wrong_valid))
    table.add_row("errors within 1.96 sigma", _rate_text(found.sigma_holds))
    table.add_row("medians", f"{found.mm.median:.2f} mm, {found.deg.median:.2f}°, {found.ms.median / 1e3:.1f} s")
    table.add_row("followed: VALID", _rate_text(followed.valid))
    table.add_row("VALID, but over 2 mm off across", _rate_text(followed.wrong_valid))
    across = followed.across_mm
    table.add_row("across the beam: median, p95", f"{across.median:.2f}, {across.p95:.2f} mm")
    table.add_row("X-rays a second", f"{followed.frames_per_s:g}")
    standard_output().print(table)


def draw_real(report: RealReport) -> None:
    """A row for each bone and instant."""
    table = Table(
        "bone", "instant", "from nowhere", "reference", "outlines px", "together", "VALID", "wrong", title="Two views"
    )
    for row in report.bones:
        table.add_row(
            row.bone,
            row.instant,
            f"{row.status} {row.reason}".strip(),
            f"{row.reference_mm:.2f} mm, {row.reference_deg:.1f}°",
            f"{_listed_px(row.outline_px)} (by chance {_listed_px(row.chance_px)})",
            *(f"{found.hits} of {found.of}" for found in (row.ends_together, row.valid, row.wrong_valid)),
        )
    standard_output().print(table)
    table = Table(
        "bone", "instant", "across mm", "other picture px", "interval holds", "status", title="One view alone"
    )
    for row in report.bones:
        said = ", ".join(f"{count} {status}" for status, count in sorted(row.one_view_status.items()))
        spreads = [
            f"{part.median:.2f} (p95 {part.p95:.2f})" for part in (row.one_view_across_mm, row.one_view_other_px)
        ]
        table.add_row(row.bone, row.instant, *spreads, f"{row.one_view_holds.hits} of {row.one_view_holds.of}", said)
    standard_output().print(table)


def _listed_px(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def draw_reconstruction(report: ReconstructionReport) -> None:
    """One table for each group of bodies, a row for each number of views and method; and the parts by themselves."""
    for group, by_count in report.groups.items():
        title = f"{group}: medians over {report.count[group]}"
        figures = ("PSNR dB", "SSIM", "bone Dice", "at best", "surface mm", "in 95 %", "in bone", "ms")
        table = Table("views", "method", *figures, title=title)
        for count, methods in by_count.items():
            for name, row in methods.items():
                values = (row.psnr_db, row.ssim, row.dice_fixed, row.dice, row.assd_mm)
                shares = (row.within_95, row.within_95_bone)
                cells = [*map(_figure, values, (1, 3, 3, 3, 1)), *map(_figure, shares, (3, 3))]
                table.add_row(count, name, *cells, _figure(row.elapsed_ms, 0))
            table.add_section()
        standard_output().print(table)
        for count, parts in report.parts[group].items():
            reader = f"reader {_figure(parts.thickness_error_mm, 1)} mm, outline {_figure(parts.outline_dice, 3)}"
            true, read = _figure(parts.lift_true_dice, 3), _figure(parts.lift_read_dice, 3)
            lift = f"lift of true thickness {true}, of read {read}"
            lungs = "" if parts.lung_dice is UNSET else f"; lungs {parts.lung_dice:.3f}"
            standard_output().print(f"{count} views: {reader}; {lift}{lungs}", highlight=False)


def _figure(value: float | UnsetType, digits: int) -> str:
    return "-" if value is UNSET else f"{value:.{digits}f}"


def _rate_text(rate: Rate) -> str:
    return f"{rate.rate:.1%} ({rate.hits} of {rate.of}; {rate.low:.1%}-{rate.high:.1%})"


def _bench_cell(figures: LinkFigures) -> str:
    parts = [] if figures.p50_ms is UNSET else [f"p50 {figures.p50_ms:g}, p99 {figures.p99_ms:g} ms"]
    parts += [] if figures.per_s is UNSET else [f"{figures.per_s:,.0f}/s"]
    parts += [f"{figures.delivered:.0%} delivered"] if figures.delivered < 1 else []
    return "\n".join([*parts, f"{figures.cpu_ms:g} ms CPU each"])
