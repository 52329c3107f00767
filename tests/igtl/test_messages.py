"""Bytes <-> messages: round trips, the reference implementation's vectors, and everything that is not a message."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navnode.igtl import (
    Bind,
    Framer,
    Image,
    LocalError,
    PeerError,
    Point,
    PointElement,
    PolyData,
    Position,
    String,
    TrackedElement,
    TrackingData,
    Transform,
    cells,
    decode,
    encode,
    split_cells,
)
from navnode.igtl.contents import CODECS
from navnode.igtl.wire import HEADER, HEADER_SIZE, crc64
from tests.igtl.strategies import messages

_OF_THE_WIRE = ("stamp", "version", "timestamp_ns", "metadata", "message_id")


def same(a, b, child: bool = False) -> bool:
    """Equal but for float32; a time stamp's 64 bits, and what children of a BIND take from it, are left out."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=2e-2)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y, child) for x, y in zip(a, b, strict=True))
    if isinstance(a, msgspec.Struct):
        out = _OF_THE_WIRE if child else ("stamp",)
        fields = [name for name in a.__struct_fields__ if name not in out]
        return type(a) is type(b) and all(
            same(getattr(a, name), getattr(b, name), isinstance(a, Bind)) for name in fields
        )
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
        messages = Framer().feed(noise)
    except PeerError as error:
        assert error.offset is not None and 0 <= error.offset <= len(noise)
    else:
        assert messages == [] or len(noise) >= HEADER_SIZE


@given(st.sampled_from([*CODECS, "STT_TDATA", "RTS_TDATA"]), st.sampled_from([1, 2]), st.binary(max_size=400))
def test_bodies_of_noise_end_in_peer_errors_only(kind, version, body):
    header = HEADER.pack(version, kind.encode(), b"x", 0, len(body), crc64(body))
    try:
        decode(header + body)
    except PeerError as error:
        assert error.offset is not None and 0 <= error.offset <= HEADER_SIZE + len(body)


@given(messages)
def test_what_was_received_is_passed_on_bit_by_bit(message):
    wire = encode(message)
    assert encode(decode(wire)) == wire


def test_crc_check_value():
    assert crc64(b"123456789") == 0x6C40DF5F0B497347  # CRC-64/ECMA-182, catalogue of parametrised CRCs


def crc_by_definition(data: bytes, crc: int = 0) -> int:
    for byte in data:
        crc ^= byte << 56
        for _ in range(8):
            crc = (crc << 1) ^ (0x42F0E1EBA9EA3693 if crc >> 63 else 0)
            crc &= 2**64 - 1
    return crc


@given(st.integers(0, 2**32), st.integers(0, 700), st.integers(0, 2**64 - 1))
def test_crc_is_the_polynomials_remainder(seed, size, start):
    data = np.random.default_rng(seed).bytes(size)
    assert crc64(data, start) == crc_by_definition(data, start)


@given(st.integers(0, 2**32), st.integers(0, 60_000), st.integers(0, 60_000))
def test_crc_continues(seed, size, cut):
    data = np.random.default_rng(seed).bytes(size)
    assert crc64(data[cut:], crc64(data[:cut])) == crc64(data)


def test_small_and_large_bodies_outlive_what_they_were_received_with():
    framer = Framer()
    voxels = [np.full((1, n, n), n, np.uint16) for n in (3, 400)]
    wires = [encode(Image(device="v", voxels=v, ras_from_index=np.eye(4))) for v in voxels]
    first = [framer.feed(wire)[0].voxels for wire in wires]
    for _ in range(20):
        framer.feed(wires[0])
        framer.feed(wires[1])
    assert all(np.array_equal(a, b) for a, b in zip(first, voxels, strict=True))


def test_a_large_body_gets_memory_only_as_it_comes():
    framer = Framer()
    framer.feed(HEADER.pack(1, b"IMAGE", b"x", 0, 1 << 29, 0) + b"half a header and then silence")
    assert len(framer.buffer()) <= 1 << 23


def test_voxels_are_not_copied_when_they_need_not_be():
    wire = encode(Image(device="v", voxels=np.zeros((1, 300, 300), np.uint16), ras_from_index=np.eye(4)))
    assert decode(wire).voxels.base is not None
    part = decode(wire).voxels
    assert part.ctypes.data - np.frombuffer(wire, np.uint8).ctypes.data == HEADER_SIZE + 72


@given(st.lists(st.lists(st.integers(0, 99), max_size=5).map(tuple), max_size=6))
def test_cells_are_flat_and_come_apart_again(each):
    assert split_cells(cells(each)) == each


def test_polygons_are_fanned_into_triangles():
    surface = PolyData(points_mm=np.zeros((5, 3), np.float32), polygons=cells([(0, 1, 2, 3), (2, 3, 4)]))
    assert surface.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [2, 3, 4]]


def test_names_are_never_cut():
    with pytest.raises(LocalError, match="longer than 20 bytes"):
        encode(TrackingData(device="Tools", elements=(TrackedElement("ATool" * 5, np.eye(4)),)))


@pytest.mark.parametrize(
    "message",
    [
        Transform(device="x", matrix=np.eye(3)),
        Image(device="x", voxels=np.zeros((0, 4, 4), np.uint8), ras_from_index=np.eye(4)),
        Image(device="x", voxels=np.zeros((1, 4, 4), np.uint8), ras_from_index=np.eye(4), size=(4, 3, 1)),
        Image(device="x", voxels=np.zeros((1, 4, 4), bool), ras_from_index=np.eye(4)),
        PolyData(device="x", points_mm=np.zeros((2, 3), np.float32), lines=cells([(0, 2)])),
        String(device="x", text="x" * 70_000),
        Bind(device="x", children=(Bind(children=()),)),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_our_own_error(message):
    with pytest.raises(LocalError, match=message.type):
        encode(message)


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


@pytest.mark.parametrize("turn", [(0.6, 0.0, 0.48), (0.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 1.00001, 0.0)])
def test_the_fourth_component_of_a_turn_sent_as_three_makes_its_length_one(turn):
    short = encode(Position(device="Tip", position_mm=(1.0, 2.0, 3.0), quaternion=(*turn, 0.0), version=1))
    body = short[HEADER_SIZE : HEADER_SIZE + 24]
    position = decode(HEADER.pack(1, b"POSITION", b"Tip", 0, len(body), crc64(body)) + body)
    assert position.quaternion[:3] == pytest.approx(turn)
    assert sum(part * part for part in position.quaternion) == pytest.approx(1.0, abs=1e-4)
    assert position.quaternion[3] >= 0


def test_a_point_is_of_no_size_and_seen_unless_it_is_said():
    (point,) = decode(encode(Point(device="Plan", points=(PointElement("entry", (1.0, 2.0, 3.0)),)))).points
    assert point.diameter_mm == 0.0 and point.rgba[3] == 255


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
        (header(0, kind=b""), "message type"),
        (header(0, kind=b"\xff\xfe"), "message type"),
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
        (body_of("IMAGE", b"\0" * 72), "scalar type 0 .at byte 61"),
        (body_of("IMAGE", image_header((0, 4, 4), (0, 0, 0), (0, 4, 4))), r"image of \[0, 4, 4\]"),
        (body_of("IMAGE", image_header((4, 4, 1), (1, 0, 0), (4, 4, 1))), "beyond"),
        (body_of("STRING", struct.pack(">HH", 3, 9) + b"abc"), "9 bytes reaches beyond"),
        (body_of("POLYDATA", struct.pack(">10I", 1 << 30, *[0] * 9)), "points, cells"),
        (body_of("TRANSFORM", struct.pack(">HHII", 12, 60_000, 0, 0) + b"\0" * 48, 2), "exceed the body"),
        (body_of("TRANSFORM", struct.pack(">HHII", 12, 2, 0, 0) + b"\0" * 48 + b"\0\5", 2), "metadata entries"),
        (encode(String(device="x", text="hello"))[:-1], "the header says"),
    ],
)
def test_contradictions_are_named(wire, reason):
    with pytest.raises(PeerError, match=reason):
        decode(wire)


def test_what_is_whole_is_given_before_what_is_wrong():
    framer = Framer()
    good, bad = encode(String(device="x", text="hello")), b"GET / HTTP/1.1" * 10
    assert [m.text for m in framer.feed(good * 3 + bad)] == ["hello"] * 3
    assert framer.failed is not None
    with pytest.raises(PeerError, match="header version"):
        framer.received(1)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("POLYDATA", struct.pack(">10I", *[0] * 9, 300) + bytes(300 * 7), "at most 256"),
        ("BIND", struct.pack(">H", 2_000) + bytes(2_000 * 20 + 2), "at most 1024"),
        (
            "BIND",
            struct.pack(">H12sQHxx", 1, b"CAPABILITY", 1 << 20, 2) + bytes(1 << 20),
            "CAPABILITY of 1048576 bytes",
        ),
        ("NDARRAY", bytes((3, 8)) + struct.pack(">8H", 0, *[65_535] * 7), "impossible values"),
    ],
)
def test_small_messages_cannot_ask_for_much(kind, body, reason):
    with pytest.raises(PeerError, match=reason):
        decode(body_of(kind, body))


@pytest.mark.parametrize(
    "message",
    [
        String(device="x", text="y", metadata={"n": 5}, version=2),
        String(device="x", text="y", message_id=-1, version=2),
        String(device="\ud800", text="y"),
        String(device="x", text="\ud800"),
        String(device="x", text="y", timestamp_ns=1.5),
    ],
    ids=["metadata", "message id", "device", "text", "time stamp"],
)
def test_values_of_the_wrong_kind_are_our_own_error(message):
    with pytest.raises(LocalError):
        encode(message)


def test_only_a_checksum_of_nought_may_be_absent_and_only_where_that_is_allowed():
    whole = encode(String(device="S", text="fine"), 2)
    absent, wrong = (whole[:50] + crc.to_bytes(8, "big") + whole[58:] for crc in (0, 1))
    for framer, data in ((Framer(), absent), (Framer(absent_crc=True), wrong)):
        with pytest.raises(PeerError, match="wrong CRC"):
            framer.feed(data)
    framer = Framer(absent_crc=True)
    (message,) = framer.feed(absent)
    assert message.text == "fine" and framer.unchecked == 1
    (head, body), *_ = framer.raw
    assert head + bytes(body) == whole  # a recording has the checksum that its bytes should have had
    assert len(framer.feed(whole)) == 1 and framer.unchecked == 1
