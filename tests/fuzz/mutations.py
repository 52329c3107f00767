"""Ways to change a file: its bytes, the words and numbers of its text, the fields of a header by their meaning."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

Rng = np.random.Generator
Change = Callable[[bytes, Rng], bytes]
"""(content, rng) -> changed content"""

_NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z][\w-]*")


def damaged(whole: bytes, rng: Rng) -> bytes:
    """Bytes changed, cut out, repeated, or the end missing; more often near the head."""
    content = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        near = min(len(content), 400) if rng.random() < 0.7 else len(content)
        at, length = int(rng.integers(0, max(1, near))), int(rng.integers(1, 9))
        match int(rng.integers(0, 5)):
            case 0:
                content[at : at + length] = rng.bytes(length)
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = content[at : at + 8 * length]
            case 3:
                content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"9999"])
            case _:
                content = content[: max(at, 1)] if rng.random() < 0.3 else content
    return bytes(content)


def shortened(whole: bytes, rng: Rng) -> bytes:
    """The end missing, or bytes behind it."""
    if rng.random() < 0.3:
        return whole + rng.bytes(int(rng.integers(1, 60)))
    return whole[: int(rng.integers(0, len(whole)))]


def flipped(whole: bytes, rng: Rng) -> bytes:
    """One bit, anywhere."""
    content = bytearray(whole)
    if content:
        content[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(content)


def other_number(text: bytes, rng: Rng) -> bytes:
    """Another number in place of one: of other sign, unit or size, or none."""
    try:
        value = float(text)
    except ValueError:
        value = 1.0
    whole = b"." not in text and b"e" not in text.lower()

    def spelled(number: float) -> bytes:
        return str(int(number)).encode() if whole and abs(number) < 1e15 else f"{number:.9g}".encode()

    choices = [
        spelled(-value),
        spelled(value + 1),
        spelled(value - 1),
        spelled(value * 1000),
        spelled(value * 2),
        f"{value * 0.001:.9g}".encode(),
        b"0",
        b"nan",
        b"inf",
        b"1e30",
        b"-1",
        b"",
        b"x",
        b"4294967296",
    ]
    return choices[int(rng.integers(0, len(choices)))]


def of_text(*words: str, head: Callable[[bytes], int] = len) -> Change:
    """Changes of a text: a number, a word for another of ``words``, a line left out, repeated, exchanged or cut.

    Args:
        words: which can stand for each other.
        head: how many bytes of a content are text.
    """
    known = [word.encode() for word in words]

    def change(content: bytes, rng: Rng) -> bytes:
        end = head(content)
        text, rest = content[:end], content[end:]
        return _changed(text, known, rng) + rest

    return change


def _changed(text: bytes, known: list[bytes], rng: Rng) -> bytes:
    numbers, lines = list(_NUMBER.finditer(text)), text.splitlines(keepends=True)
    at = int(rng.integers(0, max(1, len(lines))))
    other = int(rng.integers(0, max(1, len(lines))))
    match int(rng.integers(0, 10)):
        case 0 | 1 | 2 | 3 if numbers:
            found = numbers[int(rng.integers(0, len(numbers)))]
            return text[: found.start()] + other_number(found[0], rng) + text[found.end() :]
        case 4 if len(numbers) > 1:
            a, b = sorted(rng.choice(len(numbers), 2, replace=False))
            first, second = numbers[a], numbers[b]
            between = text[first.end() : second.start()]
            return text[: first.start()] + second[0] + between + first[0] + text[second.end() :]
        case 5 | 6 if known:
            places = [found for found in _WORD.finditer(text) if found[0] in known]
            if places:
                found = places[int(rng.integers(0, len(places)))]
                return text[: found.start()] + known[int(rng.integers(0, len(known)))] + text[found.end() :]
        case 7 if len(lines) > 1:
            return b"".join(lines[:at] + lines[at + 1 :])
        case 8 if len(lines) > 1:
            repeated = _NUMBER.sub(lambda found: other_number(found[0], rng), lines[at], count=1)
            return b"".join([*lines[:other], repeated, *lines[other:]])
        case 9 if len(lines) > 1:
            lines[at], lines[other] = lines[other], lines[at]
            return b"".join(lines)
    return text


def of_fields(*fields: tuple[int, str, int, Sequence[float]], order: str = "<") -> Change:
    """Changes of a binary header.

    Args:
        fields: (offset, struct's letter, how many in a row, further values to try).
    """

    def change(content: bytes, rng: Rng) -> bytes:
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 3))):
            at, letter, count, values = fields[int(rng.integers(0, len(fields)))]
            at += struct.calcsize(letter) * int(rng.integers(0, count))
            (now,) = struct.unpack_from(order + letter, changed, at)
            tries = [*values, -now, 2 * now, now + 1, now - 1, 0]
            tries += [np.nan, np.inf, now * 1e-3, now * 1e3] if letter in "fd" else []
            value = tries[int(rng.integers(0, len(tries)))]
            try:
                struct.pack_into(order + letter, changed, at, value if letter in "fd" else int(value))
            except (struct.error, OverflowError):
                changed[at] ^= 1
        return bytes(changed)

    return change


def unpacked(change: Change) -> Change:
    """A change of what a gzip file holds; its checksums are right again."""
    return lambda content, rng: gzip.compress(change(gzip.decompress(content), rng), 1, mtime=0)


def of_dicom(keywords: Sequence[str], words: Sequence[Any] = ()) -> Change:
    """Changes of elements, at any depth: left out, another sign, size or order of their numbers, another word."""

    def change(content: bytes, rng: Rng) -> bytes:
        import io

        dataset = pydicom.dcmread(io.BytesIO(content))
        found = list(_elements(dataset, set(keywords)))
        for _ in range(int(rng.integers(1, 3))):
            holder, keyword = found[int(rng.integers(0, len(found)))]
            if keyword not in holder:
                continue
            if rng.random() < 0.25:
                del holder[keyword]
                continue
            element = holder[keyword]
            try:
                element.value = _other_value(element.value, words, rng)
            except (TypeError, ValueError, OverflowError):
                del holder[keyword]
        out = io.BytesIO()
        try:
            dataset.save_as(out, enforce_file_format=True)
        except Exception:  # what cannot be written is no case
            return content[: len(content) // 2]
        return out.getvalue()

    return change


def _elements(dataset: Any, keywords: set[str]) -> Any:
    for element in dataset:
        if element.keyword in keywords:
            yield dataset, element.keyword
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item, keywords)


def _other_value(value: Any, words: Sequence[Any], rng: Rng) -> Any:
    if words and isinstance(value, str):
        return words[int(rng.integers(0, len(words)))]
    if hasattr(value, "__len__") and not isinstance(value, str) and len(value):
        numbers = [float(each) for each in value]
        n = int(rng.integers(0, len(numbers)))
        match int(rng.integers(0, 4)):
            case 0:
                return numbers[::-1]
            case 1:
                return [-number for number in numbers]
            case 2:
                return numbers[:-1]
        numbers[n] = [-numbers[n], numbers[n] + 1, 0.0, 1e3 * numbers[n]][int(rng.integers(0, 4))]
        return [f"{number:.10g}"[:16] for number in numbers]
    number = float(value)
    choices = [-number, number + 1, number - 1, 0, 2 * number]
    chosen = choices[int(rng.integers(0, len(choices)))]
    return int(chosen) if isinstance(value, int) and not hasattr(value, "original_string") else f"{chosen:.10g}"[:16]


def end_of_lines(*ends: bytes) -> Callable[[bytes], int]:
    """How many bytes of a content are text: up to the end of the first of these."""

    def head(content: bytes) -> int:
        places = [content.find(end) + len(end) for end in ends if end in content]
        return min(places, default=len(content))

    return head


def of_png(content: bytes, rng: Rng) -> bytes:
    """Another size, depth or kind of pixel, or a tag that turns the picture; with right checksums."""
    changed = bytearray(content)
    if rng.random() < 0.3:
        turned = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, int(rng.integers(0, 9)), 0, 0)
        chunk = struct.pack(">I", len(turned)) + b"eXIf" + turned
        return content[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + content[33:]
    at = int(rng.integers(16, 29))
    changed[at] = int(rng.choice([0, 1, 2, 3, 8, 16, changed[at] ^ 1]))
    changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed)


def of_tiff(content: bytes, rng: Rng) -> bytes:
    """Another value, kind or count in an entry of the first directory."""
    changed = bytearray(content)
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    entry = at + 2 + 12 * int(rng.integers(0, count))
    part = int(rng.choice([0, 2, 4, 8]))
    (now,) = struct.unpack_from("<H", content, entry + part)
    struct.pack_into("<H", changed, entry + part, int(rng.choice([0, 1, 2, 3, 6, 8, 16, now + 1, now ^ 4])) & 0xFFFF)
    return bytes(changed)


def files_of(path: Path) -> list[Path]:
    """The files of a case: itself, those of its folder, and those beside it with the same stem."""
    if path.is_dir():
        return sorted(path.iterdir())
    return sorted(each for each in path.parent.iterdir() if each.is_file())
