"""``navnode worker`` and ``navnode keys``: reconstruction on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from navnode import config
from navnode.commands.options import messages
from navnode.security import curve

app = typer.Typer()


@app.command(epilog="Example:  navnode worker launch/gpu-worker.toml   (on the machine with the GPU)")
def worker(
    configuration: Annotated[Path, typer.Argument(metavar="WORKER.toml", help="Such as launch/gpu-worker.toml.")],
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
) -> None:
    """A reconstruction worker for a node on another machine."""
    from navnode.node.worker import serve
    from navnode.reconstruction.methods import Method, engine_name

    loaded = config.load_worker(configuration)
    own, node = Path(loaded.key), Path(loaded.node_key)
    curve.check(own, node)
    method = Method(loaded.method)
    messages.print(f"{engine_name(method)} for the node at {loaded.node}", markup=False, highlight=False)
    if not check:
        serve(
            f"tcp://{loaded.node}",
            method,
            threads=loaded.threads or None,
            secured=lambda socket: curve.join(socket, own, node),
            tell=lambda line: messages.print(line, markup=False, highlight=False),
        )


@app.command(epilog="Example:  navnode keys keys/   then copy node.key and worker.key_secret to the worker's machine")
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the four files go.")],
) -> None:
    """Keys for a node and a worker on another machine."""
    for path in curve.create(folder):
        messages.print(str(path), markup=False, highlight=False)
