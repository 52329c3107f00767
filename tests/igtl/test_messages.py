"""Bytes <-> messages: round trips, the reference implementation's vectors, and everything that is not a message."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navnode.igtl import (
    Capability,
    Framer,
    Image,
    LocalError,
    PeerError,
    Point,
    PointElement,
    PolyData,
    Raw,
    StatusMessage,
    String,
    TrackedElement,
    TrackingData,
    Transform,
    decode,
    encode,
)
from navnode.igtl.messages import HEADER, HEADER_SIZE, crc64
from tests.conftest import SHARED

text = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=40)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
numbers = st.floats(-1e4, 1e4, width=32)
matrices = st.lists(numbers, min_size=12, max_size=12).map(
    lambda values: np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
)
common = {
    "device": names,
    "timestamp_ns": st.integers(0, 10**9 * 2**32 - 1),
    "version": st.just(2),
    "metadata": st.dictionaries(names, text, max_size=4),
}


def images():
    dtypes = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
    voxels = st.builds(lambda code, shape: np.arange(np.prod(shape)).astype(code).reshape(shape), dtypes, shapes)
    return st.builds(Image, voxels=voxels, ras_from_index=matrices, **common)


def polydata():
    points = st.integers(3, 9).map(lambda n: np.arange(3 * n, dtype=np.float32).reshape(n, 3))
    return st.builds(
        PolyData, points_mm=points, lines=st.just(((0, 1), (0, 1, 2))),
        triangles=st.just(np.array([[0, 1, 2], [2, 1, 0]], np.uint32)), **common,
    )  # fmt: skip


messages = st.one_of(
    st.builds(Transform, matrix=matrices, **common),
    images(),
    st.builds(
        StatusMessage, code=st.integers(0, 19), subcode=st.integers(-5, 5), error_name=names, text=text, **common
    ),
    st.builds(String, text=text, **common),
    st.builds(Capability, types=st.lists(st.sampled_from(["IMAGE", "TRANSFORM"])).map(tuple), **common),
    st.builds(
        Point,
        points=st.lists(st.builds(PointElement, names, st.tuples(numbers, numbers, numbers)), max_size=3).map(tuple),
        **common,
    ),
    st.builds(
        TrackingData, elements=st.lists(st.builds(TrackedElement, names, matrices), max_size=3).map(tuple), **common
    ),
    polydata(),
    st.builds(Raw, type_name=st.just("GET_STATUS"), body=st.binary(max_size=50), **common),
)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=2e-2)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b or (isinstance(a, float) and np.isclose(a, b))


@given(messages)
def test_messages_come_back(message):
    assert same(decode(encode(message)), message)


@given(messages, st.integers(1, 60))
def test_pieces_of_any_size_make_the_same_messages(message, size):
    framer, data = Framer(), encode(message) * 2
    found = [m for at in range(0, len(data), size) for m in framer.feed(data[at : at + size])]
    assert len(found) == 2 and all(same(m, message) for m in found)


@given(messages, st.data())
def test_a_flipped_bit_never_passes_unnoticed(message, data):
    wire = bytearray(encode(message))
    if len(wire) == HEADER_SIZE:
        return
    at = data.draw(st.integers(HEADER_SIZE, len(wire) - 1))
    wire[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PeerError):
        decode(bytes(wire))


@given(st.binary(max_size=300))
def test_noise_ends_in_peer_errors_only(noise):
    try:
        Framer().feed(noise)
    except PeerError:
        pass


@given(st.sampled_from(["IMAGE", "POLYDATA", "TDATA", "POINT", "STRING", "STATUS", "TRANSFORM", "CAPABILITY"]),
       st.sampled_from([1, 2]), st.binary(max_size=200))  # fmt: skip
def test_bodies_of_noise_end_in_peer_errors_only(kind, version, body):
    header = HEADER.pack(version, kind.encode(), b"x", 0, len(body), crc64(body))
    try:
        decode(header + body)
    except PeerError:
        pass


def test_crc_check_value():
    assert crc64(b"123456789") == 0x6C40DF5F0B497347  # CRC-64/ECMA-182, catalogue of parametrised CRCs


@given(st.binary(max_size=100), st.integers(0, 100))
def test_crc_continues(data, cut):
    assert crc64(data[cut:], crc64(data[:cut])) == crc64(data)


def test_a_time_stamp_keeps_its_nanoseconds():
    for timestamp_ns in (1, 999_999_999, 1_700_000_000_123_456_789):
        message = Transform(device="x", timestamp_ns=timestamp_ns, matrix=np.eye(4))
        assert decode(encode(message)).timestamp_ns == timestamp_ns


def test_times_beyond_the_wire_are_refused():
    for timestamp_ns in (-1, 10**9 * 2**32):
        with pytest.raises(LocalError, match="time stamp"):
            encode(Transform(device="x", timestamp_ns=timestamp_ns, matrix=np.eye(4)))


def test_the_last_stamp_of_the_wire_can_be_sent_on():
    wire = bytearray(encode(Transform(device="x", matrix=np.eye(4))))
    wire[34:42] = b"\xff" * 8
    assert decode(encode(decode(bytes(wire)))).timestamp_ns == 10**9 * 2**32 - 1


def test_an_image_names_its_centre_on_the_wire():
    volume_from_index = np.diag([2.0, 3.0, 4.0, 1.0])
    volume_from_index[:3, 3] = (10, 20, 30)
    wire = encode(Image(device="v", voxels=np.zeros((5, 4, 3), np.int16), ras_from_index=volume_from_index))
    center = struct.unpack_from(">3f", wire, HEADER_SIZE + 12 + 36)
    assert center == (10 + 2 * 1.0, 20 + 3 * 1.5, 30 + 4 * 2.0)


def test_long_names_travel_as_metadata():
    name = "ARatherLongToolNameToVolume"
    message = Transform(device=name, matrix=np.eye(4), version=2)
    assert decode(encode(message)).device == name
    with pytest.raises(LocalError, match="20 bytes"):
        encode(message, version=1)


def header(size: int, version: int = 1, kind: bytes = b"IMAGE") -> bytes:
    return HEADER.pack(version, kind, b"x", 0, size, 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header(1 << 40), "over the limit"),
        (header((1 << 16) + 1, kind=b"TRANSFORM"), "over the limit"),
        (header(1 << 17, kind=b"GET_IMAGE"), "over the limit"),
        (header(0, version=7), "header version 7"),
        (header(0, kind=b""), "empty message type"),
        (header(0, kind=b"\xff\xfe"), "no text"),
    ],
)
def test_limits_are_checked_before_a_body_is_awaited(data, reason):
    with pytest.raises(PeerError, match=reason):
        Framer().feed(data)


def image_header(size: tuple[int, ...], offset: tuple[int, ...], part: tuple[int, ...], scalar: int = 3) -> bytes:
    return struct.pack(">HBBBB3H12f3H3H", 1, 1, scalar, 2, 1, *size, *[0.0] * 12, *offset, *part)


def body_of(kind: str, body: bytes, version: int = 1) -> bytes:
    return HEADER.pack(version, kind.encode(), b"x", 0, len(body), crc64(body)) + body


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (body_of("TRANSFORM", b"\0" * 47), "48 expected"),
        (body_of("IMAGE", b"\0" * 72), "scalar type"),
        (body_of("IMAGE", image_header((0, 4, 4), (0, 0, 0), (0, 4, 4))), "0 x 4"),
        (body_of("IMAGE", image_header((4, 4, 1), (1, 0, 0), (4, 4, 1))), "beyond"),
        (body_of("STRING", struct.pack(">HH", 3, 9) + b"abc"), "9 expected"),
        (body_of("POLYDATA", struct.pack(">10I", 1 << 30, *[0] * 9)), "points and cells"),
        (body_of("TRANSFORM", struct.pack(">HHII", 12, 60_000, 0, 0) + b"\0" * 48, 2), "more than the body"),
        (body_of("TRANSFORM", struct.pack(">HHII", 12, 2, 0, 0) + b"\0" * 48 + b"\0\5", 2), "metadata entries"),
        (encode(String(device="x", text="hello"))[:-1], "the header says"),
    ],
)  # fmt: skip
def test_contradictions_are_named(wire, reason):
    with pytest.raises(PeerError, match=reason):
        decode(wire)


VECTORS = SHARED / "igtl_vectors"


@pytest.mark.skipif(not VECTORS.exists(), reason="the reference vectors are not beside this checkout")
def test_reference_vectors():
    known = ("CAPABILITY", "POINT", "STATUS", "STRING", "TDATA", "TRANSFORM")
    seen = set()
    for entry in json.loads((VECTORS / "index.json").read_text()):
        path = VECTORS / entry["file"]
        if not path.exists():
            continue
        wire = path.read_bytes()
        message = decode(wire)
        assert message.type == entry["type"] and message.device == entry["device"]
        if entry["type"] == "IMAGE":
            assert message.voxels.shape == (1, 50, 50) and len(encode(message)) == len(wire)
            assert encode(message)[HEADER_SIZE : HEADER_SIZE + 4] == wire[HEADER_SIZE : HEADER_SIZE + 4]
        if entry["header_version"] == 1 and entry["type"] in known:
            assert encode(message) == wire, entry["file"]
            seen.add(entry["type"])
    assert len(seen) >= 5
