"""X-rays and CTs that are sent by DICOM, with pynetdicom as the sender."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE

from navnode.clock import now_ns
from navnode.config import DicomSource
from navnode.errors import ConfigError
from navnode.gateways.dicom import CTS, XRAYS, DicomIntake
from navnode.gateways.objects import exposed_ns
from tests.files.made import body, ct_folder, grid
from tests.gateways.objects import CR, DX, PATIENT, RF, XA, enhanced_xa, picture, xray
from tests.gateways.served import PATIENCE_S, free_port, gateway
from tests.patience import until

SECOND_NS = 1_000_000_000


def source(**more) -> DicomSource:
    return DicomSource(**{"port": free_port(), "listen_port": free_port(), "timeout_s": 5.0, **more})


def associated(to: DicomSource, title: str = "CARM1", called: str = "", tls=None):
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = PATIENCE_S
    for kind in (*XRAYS, *CTS, "1.2.840.10008.1.1"):
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", to.listen_port, ae_title=called or to.ae_title, tls_args=tls)


def sent(to: DicomSource, *datasets, title: str = "CARM1") -> list[int]:
    association = associated(to, title)
    for _ in range(20):  # on a busy machine connections that have ended may still count as too many
        if association.is_established:
            break
        time.sleep(0.25)
        association = associated(to, title)
    assert association.is_established
    statuses = [association.send_c_store(ds).Status for ds in datasets]
    association.release()
    return statuses


@pytest.mark.parametrize("kind", [XA, RF, CR, DX])
def test_an_xray_becomes_a_picture_stamped_at_its_exposure(kind):
    at_ns = now_ns() // SECOND_NS * SECOND_NS + 123_456_000
    dataset = xray(picture(), at_ns, kind, ImagerPixelSpacing=["0.3", "0.2"], DistanceSourceToDetector="1020")
    dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = "30.5", "-4"
    with gateway(source()) as heard:
        assert sent(heard.source, dataset) == [0]
        heard.until(lambda: heard.images)
    image = heard.images[0][0]
    assert image.device == "XRay" and image.timestamp_ns == at_ns
    assert np.array_equal(image.voxels, picture()[None])
    assert image.metadata["DistanceSourceToDetector"] == "1020" and image.metadata["ImagerPixelSpacing"] == "0.3\\0.2"
    assert image.metadata["PositionerPrimaryAngle"] == "30.5" and image.metadata["PositionerSecondaryAngle"] == "-4"
    assert np.allclose(np.diag(image.ras_from_index), [0.2, 0.3, 1, 1])


@pytest.mark.parametrize("by_vector", [False, True])
def test_frames_come_in_order_each_at_its_own_time_with_its_share_of_the_dose(by_vector):
    at_ns = now_ns() // SECOND_NS * SECOND_NS + 500_000_000
    film = np.stack([picture(n) for n in range(6)])
    steps = {"FrameTimeVector": ["0", "100", "50", "50", "50", "50"]} if by_vector else {"FrameTime": "66.5"}
    dataset = xray(film, at_ns, ImageAndFluoroscopyAreaDoseProduct="6", **steps)
    dataset.PositionerPrimaryAngle, dataset.PositionerPrimaryAngleIncrement = "10", [str(n) for n in range(6)]
    with gateway(source()) as heard:
        assert sent(heard.source, dataset) == [0]
        heard.until(lambda: len(heard.images) == 6)
    images = [image for image, _ in heard.images]
    after_ms = [0, 100, 150, 200, 250, 300] if by_vector else [66.5 * n for n in range(6)]
    assert [image.timestamp_ns for image in images] == [at_ns + round(ms * 1e6) for ms in after_ms]
    assert all(np.array_equal(image.voxels[0], film[n]) for n, image in enumerate(images))
    assert [float(image.metadata["PositionerPrimaryAngle"]) for image in images] == [10, 11, 12, 13, 14, 15]
    assert sum(float(image.metadata["ImageAndFluoroscopyAreaDoseProduct"]) for image in images) == pytest.approx(6)


def test_frames_of_an_enhanced_object_say_their_times_themselves_in_any_order():
    at_ns = now_ns() // SECOND_NS * SECOND_NS + 500_000_000
    times_ns = [at_ns + offset for offset in (200_000_000, 0, 100_000_000)]
    film = np.stack([picture(n) for n in range(3)])
    with gateway(source()) as heard:
        assert sent(heard.source, enhanced_xa(film, times_ns)) == [0]
        heard.until(lambda: len(heard.images) == 3)
    images = [image for image, _ in heard.images]
    assert [image.timestamp_ns for image in images] == sorted(times_ns)
    assert all(np.array_equal(image.voxels[0], film[n]) for n, image in zip((1, 2, 0), images, strict=True))
    assert [float(image.metadata["PositionerPrimaryAngle"]) for image in images] == [11, 12, 10]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"AcquisitionTime": "101530"}, "exposed"),
        ({"AcquisitionTime": "101530.000000"}, "exposed"),
        ({"AcquisitionDate": ""}, "exposed"),
        ({"PixelIntensityRelationship": "LOG"}, "LOG"),
        ({"PixelIntensityRelationship": "DISP"}, "DISP"),
        ({"PixelIntensityRelationshipSign": -1}, "Sign"),
        ({"SamplesPerPixel": 3}, "samples"),
        ({"NumberOfFrames": 3}, "frames"),
        ({"Modality": "MR"}, "not an X-ray"),
        ({"Rows": 4800}, "bytes of pixels"),
        ({"Rows": 60000, "Columns": 60000}, "MB of pixels"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_placed_in_time_or_is_no_counts_is_refused_and_told(change, why):
    with gateway(source()) as heard:
        statuses = sent(heard.source, xray(picture(), **change), xray(picture(2)))
        heard.until(lambda: heard.images and len(heard.states) == 2)
    assert statuses == [0xC000, 0] and len(heard.images) == 1
    assert why in heard.states[0].text and heard.states[0].code != 1
    assert heard.states[1].code == 1 and heard.states[1].text == "", "the next one is fine again"
    assert "CARM1" in heard.states[0].text


def test_the_time_of_arrival_is_taken_where_that_is_asked_for():
    with gateway(source(stamps="arrival", delay_ms=250.0)) as heard:
        assert sent(heard.source, xray(picture(), AcquisitionTime="101530")) == [0]
        heard.until(lambda: heard.images)
        image, got_ns = heard.images[0]
        assert 250_000_000 <= got_ns - image.timestamp_ns < 250_000_000 + 5 * SECOND_NS


def test_square_roots_are_squared_and_fit_into_sixteen_bits():
    dataset = xray(picture(), PixelIntensityRelationship="SQRT", BitsStored=12, HighBit=11)
    with gateway(source()) as heard:
        assert sent(heard.source, dataset) == [0]
        heard.until(lambda: heard.images)
    counts = heard.images[0][0].voxels[0]
    assert counts.dtype == np.uint16
    assert np.abs(counts - picture().astype(float) ** 2 / 256).max() <= 0.5


def test_an_object_that_is_sent_again_is_one_exposure():
    dataset = xray(picture())
    with gateway(source()) as heard:
        assert sent(heard.source, dataset, dataset, xray(picture(1))) == [0, 0, 0]
        heard.until(lambda: len(heard.images) == 2)
        time.sleep(0.2)
    assert len(heard.images) == 2


def test_other_pixels_under_the_same_uid_are_refused_and_not_called_done():
    first, other = xray(picture()), xray(picture(1))
    other.SOPInstanceUID = first.SOPInstanceUID
    other.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    with gateway(source()) as heard:
        statuses = sent(heard.source, first, other, first)
        heard.until(lambda: any("had the same SOPInstanceUID" in state.text for state in heard.states))
    assert statuses[0] == 0 and statuses[1] != 0 and statuses[2] == 0
    assert len(heard.images) == 1


SPILT = ("Modality", "PixelIntensityRelationship", "PhotometricInterpretation")


def test_nothing_of_a_patient_is_logged_or_handed_on(caplog):
    caplog.set_level(logging.DEBUG)
    good, bad = xray(picture()), xray(picture(), PixelIntensityRelationship="LOG")
    broken = xray(picture())
    broken.Rows = 9999
    # As where the length of an element is damaged: what stands behind it is taken for its value.
    spilt = [xray(picture(), **{keyword: f"XA {PATIENT} SECRET-ID 19700101"}) for keyword in SPILT]
    with gateway(source()) as heard:
        statuses = sent(heard.source, good, bad, broken, *spilt)
        heard.until(lambda: heard.images and len(heard.states) > len(spilt))
    assert 0 not in statuses[1:]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("navnode")]
    handed_on = [*(state.text for state in heard.states), *map(str, heard.images[0][0].metadata.items())]
    said = " ".join([*lines, *handed_on])
    for secret in (PATIENT, "Doe", "SECRET-ID", "19700101"):
        assert secret not in said


def test_only_callers_that_are_named_may_send_and_only_to_this_title():
    with gateway(source(callers=("CARM1",))) as heard:
        assert associated(heard.source, "STRANGER").is_rejected
        assert associated(heard.source, "CARM1", called="OTHER").is_rejected
        echo = associated(heard.source)
        assert echo.send_c_echo().Status == 0
        echo.release()
        assert sent(heard.source, xray(picture())) == [0]


def test_a_ct_goes_to_a_folder_that_a_volume_can_be_read_from(tmp_path, caplog):
    from navnode.files.volumes import read_volume

    caplog.set_level(logging.WARNING)
    hu, ras_from_index = body(), grid()
    slices = [dcmread(path) for path in sorted(ct_folder(tmp_path / "made", hu, ras_from_index).iterdir())]
    store = tmp_path / "store"
    with gateway(source(store=str(store))) as heard:
        assert sent(heard.source, *reversed(slices), slices[0]) == [0] * (len(slices) + 1)
        heard.until(lambda: "volume.ct can name" in caplog.text)
    (folder,) = store.iterdir()
    assert len(list(folder.iterdir())) == len(slices) and str(folder) in caplog.text
    volume = read_volume(folder)
    assert volume.voxels.shape == hu.shape and np.allclose(np.sort(volume.voxels.ravel()), np.sort(hu.ravel()))
    assert not heard.images
    assert folder.stat().st_mode & 0o077 == 0 and all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_ct_is_refused_where_there_is_no_folder_or_no_room(tmp_path):
    from navnode.gateways.series import SeriesStore

    slices = sorted(ct_folder(tmp_path / "made", body(), grid()).iterdir())
    with gateway(source()) as heard:
        association = associated(heard.source)
        with pytest.raises(ValueError, match="presentation context"):
            association.send_c_store(dcmread(slices[0]))
        association.release()
    size = slices[0].stat().st_size
    store = SeriesStore(tmp_path / "store", 3 * size + size // 2)
    taken = [store.add(path.read_bytes(), Path("x"), "peer") for path in slices[:5]]
    assert taken == [True, True, True, False, False]
    assert [count for _, count in store.completed("peer")] == [3] and store.completed("peer") == []
    more = SeriesStore(tmp_path / "store", 100 * size)
    assert more.add(slices[4].read_bytes(), Path("x"), "next")
    assert [count for _, count in more.completed("next")] == [4], "whoever sent them"


@pytest.mark.parametrize("uid", ["../../etc", "1.2/3", "", "x", "1" * 65, "."])
def test_a_series_is_stored_under_a_uid_or_not_at_all(tmp_path, uid):
    from navnode.gateways.series import SeriesStore

    path = sorted(ct_folder(tmp_path / "made", body(), grid()).iterdir())[0]
    dataset = dcmread(path)
    dataset.SeriesInstanceUID = uid
    dataset.save_as(path)
    with pytest.raises(ConfigError, match="SeriesInstanceUID"):
        SeriesStore(tmp_path / "store", 1 << 30).add(path.read_bytes(), Path("x"), "peer")
    assert not (tmp_path / "store").exists()


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="DICOM port"):
            DicomIntake(source(listen_port=taken.getsockname()[1])).start(None)


# --- hostile peers ---------------------------------------------------------------------------------


def closed_within(peer: socket.socket, seconds: float) -> bool:
    peer.settimeout(seconds)
    try:
        while peer.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_units_of_transfer_that_state_gigabytes_end_their_connection():
    with gateway(source()) as heard:
        for kind in (1, 4):
            with socket.create_connection(("127.0.0.1", heard.source.listen_port)) as peer:
                peer.sendall(struct.pack(">BBL", kind, 0, 0xFFFF_FFF0) + bytes(1000))
                assert closed_within(peer, 10)
        association = associated(heard.source)
        association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 0x7FFF_FFFF) + bytes(1000))
        deadline_s = time.monotonic() + 10
        while association.is_established and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not association.is_established
        assert sent(heard.source, xray(picture())) == [0], "others are served"


def test_peers_that_say_nothing_or_trickle_are_ended_and_keep_nobody_waiting():
    with gateway(source(timeout_s=1.0)) as heard:
        silent = [socket.create_connection(("127.0.0.1", heard.source.listen_port)) for _ in range(6)]
        trickling = socket.create_connection(("127.0.0.1", heard.source.listen_port))
        trickling.sendall(struct.pack(">BBL", 1, 0, 200) + b"x")
        began_s = time.monotonic()
        assert sent(heard.source, xray(picture())) == [0]
        assert time.monotonic() - began_s < 3
        for peer in (*silent, trickling):
            assert closed_within(peer, 10)
            peer.close()


@pytest.mark.parametrize("begun", [b"", b"\x01\x00\x00"], ids=["nothing said", "a unit begun"])
def test_peers_that_leave_at_once_keep_nobody_out(begun):
    with gateway(source(timeout_s=60.0)) as heard:
        for _ in range(3):
            peers = [socket.create_connection(("127.0.0.1", heard.source.listen_port)) for _ in range(20)]
            for peer in peers:
                with contextlib.suppress(OSError):
                    peer.sendall(begun)
                peer.close()
        until(lambda: associated(heard.source).is_established, 20.0, every_s=0.25)
        assert sent(heard.source, xray(picture())) == [0]


def test_more_connections_than_allowed_are_refused():
    with gateway(source(associations=2)) as heard:
        first = [associated(heard.source) for _ in range(2)]
        assert all(association.is_established for association in first)
        assert not associated(heard.source).is_established
        first[0].release()
        time.sleep(0.5)
        assert sent(heard.source, xray(picture())) == [0]
        first[1].release()


def test_objects_larger_than_may_be_held_end_their_connection_and_free_what_they_held():
    with gateway(source(memory_mb=16)) as heard:
        huge = xray(np.zeros((20, 1024, 1024), np.uint16), FrameTime="10")
        association = associated(heard.source)
        with contextlib.suppress(RuntimeError, AttributeError):
            association.send_c_store(huge)
        deadline_s = time.monotonic() + 10
        while association.is_established and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not association.is_established
        time.sleep(0.5)
        fits = xray(np.zeros((5, 1024, 1024), np.uint16) + 7, FrameTime="10")
        assert sent(heard.source, fits, xray(picture())) == [0, 0]


def test_a_hundred_objects_hold_nothing_afterwards():
    with gateway(source(memory_mb=16)) as heard:
        counts = picture(0, (512, 512))
        assert sent(heard.source, *(xray(counts + n) for n in range(100))) == [0] * 100


@pytest.mark.long
def test_bytes_by_chance_end_their_connection_alone():
    rng = np.random.default_rng(3)
    with gateway(source(timeout_s=1.0)) as heard:
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", heard.source.listen_port)) as peer:
                head = struct.pack(">BBL", int(rng.integers(0, 9)), 0, int(rng.integers(0, 400)))
                peer.sendall(head + rng.bytes(int(rng.integers(0, 500))))
        assert sent(heard.source, xray(picture())) == [0]


def test_sent_bytes_that_are_altered_end_their_connection_or_are_refused(tmp_path):
    """What a real sender sent, with bytes altered: the gateway lives, holds nothing and serves others."""
    dataset = xray(picture(0, (64, 64)))
    with gateway(source(timeout_s=1.0)) as heard:
        sender, said = recorded(heard.source.listen_port)
        to = DicomSource(port=1, listen_port=sender, timeout_s=5.0)
        assert sent(to, dataset) == [0]
        content, rng = b"".join(said), np.random.default_rng(11)
        assert len(content) > 8000
        for _ in range(60):
            altered = bytearray(content)
            for at in rng.integers(0, min(len(altered), 1500) if rng.random() < 0.7 else len(altered), 3):
                altered[at] = rng.integers(0, 256)
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", heard.source.listen_port), 5) as peer,
            ):
                peer.settimeout(0.5)
                peer.sendall(altered)
                peer.recv(1)
        heard.until(lambda: not any("AcceptorThread" in thread.name for thread in threading.enumerate()))
        assert sent(heard.source, xray(picture(5))) == [0]


def recorded(port: int) -> tuple[int, list[bytes]]:
    """A port that hands one connection on to another, and what the peer said."""
    listening = socket.create_server(("127.0.0.1", 0))
    said: list[bytes] = []

    def hand_on() -> None:
        peer, _ = listening.accept()
        with listening, peer, socket.create_connection(("127.0.0.1", port)) as onward:
            while True:
                ready, _, _ = select.select([peer, onward], [], [], PATIENCE_S)
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    (onward if one is peer else peer).sendall(data)
                    if one is peer:
                        said.append(data)

    threading.Thread(target=hand_on, daemon=True).start()
    return listening.getsockname()[1], said


@pytest.fixture
def new_york(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    ("said_", "utc"),
    [
        ({"AcquisitionDate": "20260301", "AcquisitionTime": "120000.250"}, "2026-03-01T17:00:00.250"),
        ({"AcquisitionDate": "20260701", "AcquisitionTime": "120000.250"}, "2026-07-01T16:00:00.250"),
        ({"AcquisitionDateTime": "20260301120000.250+0100"}, "2026-03-01T11:00:00.250"),
        ({"AcquisitionDateTime": "20260301120000.250", "TimezoneOffsetFromUTC": "-0330"}, "2026-03-01T15:30:00.250"),
        ({"AcquisitionTime": "", "ContentDate": "20260301", "ContentTime": "120000.5"}, "2026-03-01T17:00:00.500"),
        ({"AcquisitionDateTime": "20260301120000", "ContentDate": "20260301"}, None),
        ({"AcquisitionDateTime": "20261301120000.5"}, None),
        ({"AcquisitionTime": "12:00:00.5"}, None),
    ],
)
def test_times_of_headers(said_, utc):
    dataset = xray(picture())
    for keyword in ("AcquisitionDate", "AcquisitionTime"):
        if keyword not in said_ or not said_[keyword]:
            delattr(dataset, keyword)
    for keyword, value in said_.items():
        if value:
            setattr(dataset, keyword, value)
    if utc is None:
        with pytest.raises(ConfigError, match="exposed"):
            exposed_ns(dataset, Path("x"), 1)
        return
    assert exposed_ns(dataset, Path("x"), 1) == [int(np.datetime64(utc, "ns").astype(np.int64))]
