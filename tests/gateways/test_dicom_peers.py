"""DCMTK's storescu, a sender that shares no code with the gateway; and senders over TLS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import trustme
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEGLosslessSV1

from navnode.files.volumes import read_volume
from navnode.security.tls import Tls
from tests.files.made import body, ct_folder, grid, saved
from tests.gateways.objects import CR, DX, RF, XA, picture, xray
from tests.gateways.served import PATIENCE_S, gateway
from tests.gateways.test_dicom import associated, closed_within, source

# pynetdicom has a script of the same name: it comes first where this environment is activated.
OTHERS = [folder for folder in os.get_exec_path() if Path(folder) != Path(sys.executable).parent]
STORESCU = shutil.which("storescu", path=os.pathsep.join(OTHERS))
needs_dcmtk = pytest.mark.skipif(STORESCU is None, reason="DCMTK is not installed")


def storescu(to, *arguments, called: str = "") -> subprocess.CompletedProcess:
    command = [STORESCU, "-aet", "CARM1", "-aec", called or to.ae_title, *map(str, arguments)]
    at = command.index("--") if "--" in command else len(command)
    files = command[at + 1 :]
    command = [*command[:at], "127.0.0.1", str(to.listen_port), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_dcmtk
def test_dcmtk_sends_xrays_of_every_kind(tmp_path):
    paths = [saved(xray(picture(n), kind=kind), tmp_path / f"{n}.dcm") for n, kind in enumerate((XA, RF, CR, DX))]
    film = np.stack([picture(n) for n in range(5)])
    paths.append(saved(xray(film, FrameTime="40"), tmp_path / "film.dcm"))
    with gateway(source()) as heard:
        told = storescu(heard.source, "--", *paths)
        assert told.returncode == 0, told.stderr
        heard.until(lambda: len(heard.images) == 9)
    found = [image.voxels[0] for image, _ in heard.images]
    assert all(np.array_equal(a, b) for a, b in zip(found, [*(picture(n) for n in range(4)), *film], strict=True))


@needs_dcmtk
@pytest.mark.parametrize("syntax", ["implicit", "jpeg"])
def test_dcmtk_sends_in_other_transfer_syntaxes(tmp_path, syntax):
    dataset = xray(picture(), BitsStored=12, HighBit=11)
    if syntax == "implicit":
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        path, option = saved(dataset, tmp_path / "x.dcm"), "-xi"
    else:
        plain, path, option = saved(dataset, tmp_path / "plain.dcm"), tmp_path / "x.dcm", "-xs"
        subprocess.run(["dcmcjpeg", "+e1", str(plain), str(path)], check=True, capture_output=True)
        assert dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    with gateway(source()) as heard:
        told = storescu(heard.source, option, "--", path)
        assert told.returncode == 0, told.stderr
        heard.until(lambda: heard.images)
    assert np.array_equal(heard.images[0][0].voxels[0], picture())


@needs_dcmtk
def test_dcmtk_sends_a_ct_series(tmp_path):
    hu, ras_from_index = body(), grid()
    folder = ct_folder(tmp_path / "made", hu, ras_from_index)
    with gateway(source(store=str(tmp_path / "store"))) as heard:
        told = storescu(heard.source, "+sd", "--", folder)
        assert told.returncode == 0, told.stderr
    (stored,) = (tmp_path / "store").iterdir()
    assert np.array_equal(read_volume(stored).voxels, read_volume(folder).voxels)


@needs_dcmtk
def test_dcmtk_is_told_why_an_object_is_refused(tmp_path):
    path = saved(xray(picture(), PixelIntensityRelationship="LOG"), tmp_path / "x.dcm")
    with gateway(source()) as heard:
        told = storescu(heard.source, "-v", "--", path)
        assert "CannotUnderstand" in told.stderr or "Unknown Status" in told.stderr or "0xc000" in told.stderr
        assert storescu(heard.source, "--", path, called="WRONG").returncode != 0
        assert not heard.images


def certified(folder: Path, authority: trustme.CA) -> Tls:
    folder.mkdir()
    paths = [folder / f"{part}.pem" for part in ("certificate", "key", "authorities")]
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(paths[0])
    certificate.private_key_pem.write_to_path(paths[1])
    paths[1].chmod(0o600)
    authority.cert_pem.write_to_path(paths[2])
    return Tls(*map(str, paths))


def test_with_tls_only_senders_with_a_certificate_are_served(tmp_path):
    authority = trustme.CA()
    ours, theirs = certified(tmp_path / "ours", authority), certified(tmp_path / "theirs", trustme.CA())
    with gateway(source(tls=ours, listen="127.0.0.1")) as heard:
        good = associated(heard.source, tls=(ours.client_context(), "127.0.0.1"))
        assert good.is_established and good.send_c_store(xray(picture())).Status == 0
        good.release()
        assert not associated(heard.source).is_established, "without TLS"
        context = theirs.client_context()
        context.load_verify_locations(ours.authorities)
        assert not associated(heard.source, tls=(context, "127.0.0.1")).is_established, "of another authority"
        again = associated(heard.source, tls=(ours.client_context(), "127.0.0.1"))
        assert again.is_established
        again.release()
    assert len(heard.images) == 1


@pytest.mark.long
def test_peers_that_never_finish_their_handshake_are_no_more_than_may_wait(tmp_path):
    ours = certified(tmp_path / "ours", trustme.CA())
    with gateway(source(tls=ours, listen="127.0.0.1", associations=2, timeout_s=3.0)) as heard:
        before = threading.active_count()
        address = "127.0.0.1", heard.source.listen_port
        silent = [socket.create_connection(address) for _ in range(40)]
        time.sleep(1.0)
        assert threading.active_count() - before <= 4
        assert sum(closed_within(peer, 0.05) for peer in silent) >= 36
        assert all(closed_within(peer, 10) for peer in silent), "who waits is ended, too"
        for peer in silent:
            peer.close()
        good = None
        deadline_s = time.monotonic() + PATIENCE_S
        while (good is None or not good.is_established) and time.monotonic() < deadline_s:
            good = associated(heard.source, tls=(ours.client_context(), "127.0.0.1"))
        assert good is not None and good.send_c_store(xray(picture())).Status == 0
        good.release()
