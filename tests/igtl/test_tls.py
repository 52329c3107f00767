"""Connections over TLS: certificates of both sides, or none."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest
import trustme

from navnode.errors import ConfigError
from navnode.igtl import BlockingClient, Client, Image, Server, encode
from navnode.security.tls import Tls
from tests.conftest import find_free_port
from tests.igtl.peers import PATIENCE_S, Plain, run, transform
from tests.patience import until_async


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Certificates of one authority for both sides, and of another one."""

    def issue(name: str) -> Tls:
        folder = tmp_path_factory.mktemp(name)
        authority = trustme.CA()
        paths = [str(folder / f"{part}.pem") for part in ("certificate", "key", "authorities")]
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.cert_chain_pems[0].write_to_path(paths[0])
        certificate.private_key_pem.write_to_path(paths[1])
        Path(paths[1]).chmod(0o600)
        authority.cert_pem.write_to_path(paths[2])
        return Tls(*paths)

    return issue("ours"), issue("theirs")


def test_tls_carries_messages_both_ways(tls):
    ours, _ = tls

    async def story():
        heard = []
        port = find_free_port()
        async with (
            Server(port=port, on_message=lambda m, peer, ns: heard.append(m), tls=ours) as server,
            Client("127.0.0.1", port, tls=ours) as client,
        ):
            await until_async(lambda: server.peers)
            voxels = np.arange(300_000, dtype=np.uint16).reshape(1, 500, 600)
            server.publish(Image(device="XRay", voxels=voxels, ras_from_index=np.eye(4)))
            message = await asyncio.wait_for(client.receive(), PATIENCE_S)
            assert np.array_equal(message.voxels, voxels)
            client.send(transform("Pushed", 1))
            await until_async(lambda: heard)

            def blocking():
                with BlockingClient("127.0.0.1", port, tls=ours) as other:
                    return other.command("ListDevices").metadata["Message"]

            assert "XRay (IMAGE)" in await asyncio.to_thread(blocking)

    run(story())


def test_tls_lets_nobody_else_in(tls):
    ours, theirs = tls

    async def story():
        async with Server(port=0, tls=ours) as server:
            states: list[tuple[bool, str]] = []
            stranger = Client("127.0.0.1", server.port, on_state=lambda *state: states.append(state), tls=theirs)
            task = asyncio.create_task(stranger.run())
            plain = await Plain().connect(server.port)
            plain.writer.write(encode(transform("x", 1)) * 10)
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(plain.reader.read(), PATIENCE_S)  # to its end
            await until_async(lambda: states)
            assert not server.peers and not any(up for up, _ in states)
            task.cancel()

    run(story())


def test_other_addresses_need_tls_or_consent(tls):
    with pytest.raises(ConfigError, match="insecure"):
        Server("0.0.0.0")
    Server("0.0.0.0", insecure=True)
    Server("0.0.0.0", tls=tls[0])


def test_certificates_that_cannot_be_used_are_named(tls, tmp_path):
    ours, theirs = tls
    with pytest.raises(ConfigError, match="no such file"):
        Server(tls=Tls(str(tmp_path / "missing.pem"), ours.key, ours.authorities))
    with pytest.raises(ConfigError, match=r"tls\.certificate and tls\.key"):
        Server(tls=Tls(ours.certificate, theirs.key, ours.authorities))


def test_a_key_that_others_can_read_is_refused(tls):
    ours, _ = tls
    key = Path(ours.key)
    key.chmod(0o640)
    try:
        for context in (ours.server_context, ours.client_context):
            with pytest.raises(ConfigError, match="chmod 600"):
                context()
    finally:
        key.chmod(0o600)
