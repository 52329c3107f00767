"""Names, modules and summaries of the commands; each is loaded only when it is called."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_OWN = {
    "demo": ("demo", "Show a navigated operation: virtual operating room, node and display on this machine."),
    "simulate": (
        "simulate",
        "Run only the virtual operating room: an OpenIGTLink server with X-rays, tracker poses and the truth.",
    ),
    "run": ("run", "Run the node: registration, reconstruction worker and display, from a configuration."),
    "carm": ("carm", "Find out how a C-arm shows X-rays in its video."),
    "jig": ("jig", "Make and check a jig of beads, which gives ordinary X-rays their geometry."),
    "gateway": ("gateway", "Serve what a C-arm sends by DICOM, or shows as video, as OpenIGTLink."),
    "worker": ("worker", "Run a reconstruction worker for a node on another machine."),
    "keys": ("worker", "Make keys for a node and a worker on another machine."),
    "doctor": (
        "doctor",
        "Say what this machine has, what the node will use of it, and what a configuration still lacks.",
    ),
    "sample": ("offline", "Write a CT, X-rays of it and views.json, to try other commands on."),
    "project": ("offline", "Render the views' X-ray images of a CT."),
    "register": ("offline", "2D/3D registration: where did the C-arm stand?"),
    "bodies": ("offline", "Show the bones of a label map or a list."),
    "plan": ("offline", "Check plans of entry and target in a CT, and write them for a node."),
    "read": ("offline", "Show what the node takes for bone and lung in one X-ray."),
    "model": ("offline", "Make a surface of every bone that two to sixteen X-rays show."),
    "print": ("offline", "Make a bone ready to print: hollow, cut, scaled, with an engraved label."),
    "serve-models": ("models", "Serve a page that makes models of bones from X-rays, on this machine."),
    "_model": ("models", "One model, for the page that asked for it."),
    "reconstruct": ("offline", "Make a volume from views with poses."),
    "train": ("train", "Train the learned reconstruction, or resume training it, and export it."),
    "train-reader": ("train_bones", "Render X-rays of labelled CTs, then train the reader on them, or resume both."),
    "train-refiner": (
        "train_bones",
        "Render bodies of labelled CTs, then train on what the reader reads of them, or resume both.",
    ),
    "train-lungs": (
        "train_bones",
        "Render chests and necks of labelled CTs, then train on what the reader reads of their lungs, or resume both.",
    ),
    "train-pack": ("train_bones", "Pack a training's X-rays and bodies into one file, to train on another machine."),
    "_process": ("process", "One of the supervised processes."),
    "engine": ("engine", "List, check and build the engines that run the networks of the learned reconstruction."),
    "bench": ("bench", "Measure this machine, next to other implementations in the same run."),
    "evidence": (
        "evidence",
        "Make signed evidence of this installation: materials, risks and their tests, figures, drift of calibrations.",
    ),
    "record": ("record", "Record all bytes that a server sends, until Ctrl-C."),
    "replay": (
        "replay",
        "Replay a session: at its own pace with page and consoles, or as fast as possible with a comparison.",
    ),
    "inspect": (
        "inspect",
        "Show what is in a session: topics, rates, gaps, latencies, and shares of validity.",
    ),
    "recover": ("edit", "Repair a torn or damaged session as far as it can be read."),
    "cut": ("edit", "Cut a piece of a session, or some of its topics, into a new session."),
    "merge": ("edit", "Merge the received messages of several sessions into one session."),
    "export": (
        "exchange",
        "Export a session for other programs, without identifying data except text burned into images.",
    ),
    "import": ("exchange", "Import another program's image sequence as a session."),
    "archive": (
        "archive",
        "Put sessions into an archive on S3 or elsewhere: by policy, checked, without what may identify people.",
    ),
    "evaluate": (
        "evaluate",
        "Replay many sessions in lockstep and score them; compare two configurations or versions.",
    ),
}
"""Command -> its module in :mod:`navnode.commands`, and the first line of its help for the list of commands."""
_OTHERS = {entry.name: entry for entry in entry_points(group="navnode.commands")}
"""Commands of other packages: calibration imports navnode, not the other way round."""


class Commands(TyperGroup):
    """Lists commands without loading them; loads a command's module, and what that imports, when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        lines = {name: line for name, (_, line) in _OWN.items()}
        lines |= {name: _summary(entry) for name, entry in _OTHERS.items()}
        self.commands = {
            name: TyperCommand(name, help=line, hidden=name.startswith("_")) for name, line in lines.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else loaded(name, ctx), rest


def loaded(name: str, ctx: Any = None) -> Any:
    """Load a known command, ready to be called."""
    mounted = typer.Typer(rich_markup_mode="rich")
    if name in _OWN:
        mounted.add_typer(importlib.import_module(f"navnode.commands.{_OWN[name][0]}").app)
    else:
        mounted.add_typer(_OTHERS[name].load(), name=name)
    return typer.main.get_group(mounted).get_command(ctx, name)


def _summary(entry: EntryPoint) -> str:
    """The summary that an entry point's package declares; the command itself is not loaded."""
    package = importlib.import_module(entry.module.partition(".")[0])
    return str(getattr(package, "SUMMARY", ""))
