"""``navnode serve-models``: the page that makes models of bones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui, say
from navnode.config import DisplaySection
from navnode.config.fields import option
from navnode.errors import ConfigError
from navnode.node.processes import die_with, serve_until_told
from navnode.security.tls import is_loopback

app = typer.Typer()


class ServeModelsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Serve the page that makes models of bones."""

    keep: Annotated[Path, option("Also keep every result in a new folder here.", "DIR")] | None = None
    jig: Annotated[tuple[Path, ...], option("A measured jig to choose on the page; repeat.", "JIG.json")] = ()
    port: Annotated[int, option("Port of the page.", ge=1, le=65_535)] = 8090
    host: Annotated[str, option("Listen here instead of on this machine alone; needs --insecure.", "ADDRESS")] = (
        "127.0.0.1"
    )
    name: Annotated[tuple[str, ...], option("A name that browsers reach this machine by; repeat.", "NAME")] = ()
    insecure: Annotated[bool, option("Let others on the network see pictures and results, unencrypted.")] = False

    def section(self) -> DisplaySection:
        """Where the page is served.

        Raises:
            ConfigError: others could see it, and that was not asked for.
        """
        if not (is_loopback(self.host) or self.insecure):
            raise ConfigError(
                f"--host {self.host}: others on the network would see pictures and results, without encryption; "
                "--insecure accepts that"
            )
        return DisplaySection(host=self.host, port=self.port, insecure=self.insecure, names=self.name)


@command(
    app,
    ServeModelsRequest,
    name="serve-models",
    example=("navnode serve-models", "navnode serve-models --keep models --jig measured.json"),
    json=False,
)
def serve_models(request: ServeModelsRequest, ui: Ui) -> None:
    """Serve a page that makes models of bones from X-rays, on this machine.

    Pictures are dropped on it; it shows what was read in them, lets beads be corrected, and offers the results. Nothing
    is kept after Clear, half an hour without a visitor, or the end of this command, except with --keep. Research use
    only.
    """
    from navnode.display import models
    from navnode.jig import read_jig

    jigs = tuple(read_jig(path) for path in request.jig)

    def ready(port: int) -> None:
        say(f"http://{request.host}:{port}/  Ctrl-C ends it.")

    serve_until_told(models.serve_models(request.section(), request.keep, jigs, ready))


@app.command("_model", hidden=True)
def run_model(folder: Path, parent: int) -> None:
    """One model, for the page that asked for it."""
    from navnode.offline.model_steps import run

    die_with(parent)
    run(folder)
