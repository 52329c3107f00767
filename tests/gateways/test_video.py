"""Video files as a gateway's source: stamps, pace, what is held, and what ends."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from navnode.config import VideoSource
from navnode.gateways.video import VideoIntake, opened
from navnode.igtl import Image, StatusMessage
from tests.gateways.served import free_port, gateway

MS_NS = 1_000_000


def written(path, pictures, rate_hz: float = 25.0, fourcc: str = "FFV1"):
    """A file without loss."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*fourcc), rate_hz, (width, height), isColor=pictures[0].ndim == 3
    )
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def numbered(n: int, shape=(96, 128)) -> np.ndarray:
    """A picture whose mean says its number."""
    rng = np.random.default_rng(n)
    return np.clip(rng.normal(20 + 8 * n, 3, shape), 0, 255).astype(np.uint8)


def source(path, **more) -> VideoSource:
    return VideoSource(**{"device": str(path), "port": free_port(), **more})


def ends(heard) -> list[int]:
    return [n for n, m in enumerate(heard.all) if isinstance(m, StatusMessage) and "the file ended" in m.text]


def played(heard) -> list:
    """The pictures of a file from its beginning to its end."""
    heard.until(lambda: len(ends(heard)) >= 2)
    first, second = ends(heard)[:2]
    return [message for message in heard.all[first:second] if isinstance(message, Image)]


def number_of(image) -> int:
    return round((float(image.voxels.mean()) - 20) / 8)


def test_a_file_is_played_at_its_pace_and_stamped_as_it_is_taken(tmp_path):
    path = written(tmp_path / "x.avi", [numbered(n) for n in range(20)])
    with gateway(source(path, delay_ms=40.0)) as heard:
        heard.until(lambda: len(heard.images) >= 15 and number_of(heard.images[-1][0]) == 19)
    numbers = [number_of(image) for image, _ in heard.images]
    assert sorted(numbers) == numbers
    stamps = np.array([image.timestamp_ns for image, _ in heard.images])
    assert 35 * MS_NS < np.median(np.diff(stamps)) < 45 * MS_NS
    late_ms = np.array([got_ns - image.timestamp_ns for image, got_ns in heard.images]) / MS_NS
    assert 40 <= np.median(late_ms) < 80, "the delay that was stated, and less than a picture more"
    first = heard.images[0][0]
    assert first.device == "XRay" and first.voxels.shape == (1, 96, 128) and first.voxels.dtype == np.uint8


def test_the_end_of_a_file_is_told_and_it_is_opened_again(tmp_path):
    path = written(tmp_path / "x.avi", [numbered(n) for n in range(5)])
    with gateway(source(path)) as heard:
        heard.until(lambda: sum(number_of(image) == 4 for image, _ in heard.images) >= 2)
    assert "the file ended; opening it again" in next(state.text for state in heard.states if state.code != 1)
    assert any(state.code == 1 for state in heard.states), "and that it sends again"


def test_a_source_that_is_not_there_is_told_and_taken_once_it_comes(tmp_path):
    path = tmp_path / "x.avi"
    with gateway(source(path)) as heard:
        heard.until(lambda: heard.states)
        assert "cannot be opened" in heard.states[0].text and heard.states[0].code != 1
        written(tmp_path / "y.avi", [numbered(n) for n in range(8)]).rename(path)
        heard.until(lambda: heard.images and heard.states[-1].code == 1)
        assert heard.alive, "it lives meanwhile"


def test_a_capture_card_that_is_not_there_is_told():
    with gateway(VideoSource(device="/dev/video77", port=free_port())) as heard:
        heard.until(lambda: heard.states)
    assert "/dev/video77: cannot be opened" in heard.states[0].text


def test_the_password_of_a_stream_is_not_told(caplog):
    caplog.set_level("DEBUG")
    stream = VideoSource(device="rtsp://user:secret@127.0.0.1:9/live", port=free_port())
    with gateway(stream) as heard:
        heard.until(lambda: heard.states)
    assert "rtsp://127.0.0.1:9/live" in heard.states[0].text
    assert "secret" not in heard.states[0].text and "secret" not in caplog.text


def test_a_file_that_is_damaged_is_told(tmp_path):
    path = tmp_path / "x.avi"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with gateway(source(path)) as heard:
        heard.until(lambda: heard.states)
    assert "cannot be opened" in heard.states[0].text


def test_a_region_outside_the_picture_is_told_with_the_pictures_size(tmp_path):
    path = written(tmp_path / "x.avi", [numbered(n) for n in range(10)])
    with gateway(source(path, region=(0, 0, 500, 90))) as heard:
        heard.until(lambda: any("lies outside the picture of 128 x 96 pixels" in s.text for s in heard.states))
    assert not heard.images


def test_an_exposure_that_is_held_is_sent_once(tmp_path):
    rng = np.random.default_rng(1)
    film = []
    for n in range(4):
        shot = numbered(n).astype(float)
        film += [np.clip(np.rint(shot + rng.normal(0, 0.4, shot.shape)), 0, 255).astype(np.uint8) for _ in range(5)]
    with gateway(source(written(tmp_path / "x.avi", film))) as heard:
        assert [number_of(image) for image in played(heard)] == [0, 1, 2, 3]


def test_a_clock_that_goes_on_in_a_mask_does_not_make_a_held_exposure_new(tmp_path):
    rng = np.random.default_rng(1)
    film = []
    for n in range(3):
        for repeat in range(6):
            shown = np.clip(np.rint(numbered(n) + rng.normal(0, 0.4, (96, 128))), 0, 255).astype(np.uint8)
            shown[60:80, 10:70] = 0
            cv2.putText(shown, f"12:{6 * n + repeat:02d}", (12, 76), 0, 0.5, 255, 1)
            film.append(shown)
    path = written(tmp_path / "x.avi", film)
    with gateway(source(path, masks=((8, 58, 64, 24),))) as heard:
        assert len(played(heard)) == 3


@pytest.mark.parametrize("interlace", ["none", "bob"])
@pytest.mark.long
def test_fields_are_exposures_half_a_picture_apart(tmp_path, interlace):
    film = []
    for n in range(12):
        picture = numbered(n)
        picture[1::2] = np.clip(picture[1::2].astype(int) + 4, 0, 255)
        film.append(picture)
    with gateway(source(written(tmp_path / "x.avi", film), interlace=interlace)) as heard:
        stamps = np.array([image.timestamp_ns for image in played(heard)])
    assert len(stamps) == (24 if interlace == "bob" else 12)
    assert np.median(np.diff(stamps)) / MS_NS == pytest.approx(20 if interlace == "bob" else 40, abs=3)


def test_an_interlaced_picture_that_is_held_is_two_exposures_once(tmp_path):
    film = []
    for n in range(3):
        picture = numbered(n)
        picture[1::2] = np.clip(picture[1::2].astype(int) + 4, 0, 255)
        film += [picture] * 5
    with gateway(source(written(tmp_path / "x.avi", film), interlace="bob")) as heard:
        assert len(played(heard)) == 6


def test_colours_become_grey_and_gamma_counts(tmp_path):
    film = [np.repeat(numbered(n)[..., None], 3, 2) for n in range(6)]
    path = written(tmp_path / "x.avi", film, fourcc="HFYU")
    with gateway(source(path, gamma=2.2)) as heard:
        counts = played(heard)[0].voxels[0]
    assert counts.dtype == np.uint16
    assert counts.mean() / 65535 == pytest.approx(((film[0] / 255.0) ** 2.2).mean(), rel=0.3)


def test_a_driver_that_hangs_gives_no_signs_of_life(monkeypatch):

    from navnode.gateways import video

    hangs = threading.Event()
    monkeypatch.setattr(video, "_MOVES_S", 0.3)
    monkeypatch.setattr(video, "_STOP_S", 0.1)
    monkeypatch.setattr(video, "opened", lambda _: hangs.wait(20) and cv2.VideoCapture())
    intake = VideoIntake(VideoSource(device="0"))
    intake.start(None)
    assert intake.lives()
    time.sleep(0.5)
    assert not intake.lives()
    intake.stop()
    hangs.set()
    intake._thread.join(5)


def test_a_card_is_asked_for_its_standard():
    assert not opened(VideoSource(device="77", standard="pal", fourcc="YUYV")).isOpened()


class Camera:
    """A network camera: JPEGs over HTTP, each when it is taken."""

    def __init__(self, port: int = 0) -> None:
        self._vanish = threading.Event()
        self.taken_ns: dict[int, int] = {}
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
                self.end_headers()
                n = 0
                while not camera._vanish.wait(0.04):
                    camera.taken_ns[n % 25] = time.time_ns()
                    jpeg = cv2.imencode(".jpg", numbered(n % 25, (480, 640)))[1].tobytes()
                    head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                    with contextlib.suppress(OSError):
                        self.wfile.write(head + jpeg + b"\r\n")
                    n += 1

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def vanish(self) -> None:
        self._vanish.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.long
def test_a_network_stream_is_taken_as_it_comes_and_again_after_it_vanished():
    camera = Camera()
    stream = VideoSource(device=f"http://127.0.0.1:{camera.port}/live", port=free_port())
    try:
        with gateway(stream) as heard:
            heard.until(lambda: len(heard.images) > 40)
            late_ms = [
                (image.timestamp_ns - camera.taken_ns[number_of(image)]) / MS_NS for image, _ in heard.images[20:40]
            ]
            assert np.median(late_ms) < 80, late_ms
            camera.vanish()
            heard.until(lambda: any("sends no pictures any more" in state.text for state in heard.states))
            before = len(heard.images)
            camera = Camera(camera.port)
            heard.until(lambda: len(heard.images) > before + 5 and heard.states[-1].code == 1)
    finally:
        camera.vanish()


@pytest.mark.parametrize(
    ("backend", "age_ms", "taken_ms"),
    [("V4L2", 30.0, 30.0), ("V4L2", -50.0, 0.0), ("V4L2", 1e9, 0.0), ("FFMPEG", 30.0, 0.0)],
)
def test_the_drivers_time_of_capture_counts_where_it_can_be_one(backend, age_ms, taken_ms):
    from navnode.clock import now_ns
    from navnode.gateways.video import _captured_ns

    stamped_ms = time.monotonic_ns() / MS_NS - age_ms
    # What OpenCV says of a picture just grabbed.
    driver = SimpleNamespace(getBackendName=lambda: backend, get=lambda _: stamped_ms)
    assert (now_ns() - _captured_ns(driver)) / MS_NS == pytest.approx(taken_ms, abs=5)
