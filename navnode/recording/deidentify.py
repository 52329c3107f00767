"""Takes out of a session what may identify people, and leaves everything else as it is, bit by bit where it can.

First the session is read for what is named in it (:class:`Names`): machines, files, volumes, plans. Then every entry is
copied. Names stand in for names, the same for the same one, so that a replay does what it did before. Texts that may
hold anything go. Times stay, and so does text burned into pixels.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from navnode.config import (
    CaseSection,
    Config,
    ConsoleSection,
    DisplaySection,
    SourceSection,
    VideoSource,
    decode,
    is_ct_file,
)
from navnode.errors import CalibrationError, ConfigError, DamagedError, LocalError
from navnode.files import artifacts
from navnode.igtl import Image, Message, Raw, StatusMessage, encode
from navnode.igtl.conventions import ANGLE_KEYS, DOSE_KEY, EXPOSURE_KEY, REPLAY_KEY, STATUS_KEY, VALID_KEY, VIDEO_KEY
from navnode.loop import calibrations
from navnode.loop.topics import TOPICS
from navnode.recording.container import Channel, Entry
from navnode.recording.format import (
    BUS,
    CALIBRATION,
    CONFIGURATION,
    JSON,
    OPENIGTLINK,
    VERSIONS,
    answer_of,
    answer_parts,
    encoded,
)
from navnode.recording.recording import Recording
from navnode.recording.tap import Versions
from navnode.recording.writer import ContainerWriter
from navnode.types import SurfaceReady, VolumeReady
from navnode.xray.correction import decode_flat_field

__all__ = ["DEIDENTIFICATION", "VIDEO", "Deidentifier", "Names", "configuration_of", "may_be_video"]

DEIDENTIFICATION = 2
"""Increases when more is taken out than before."""
VIDEO = "video"
_NUMBERS = frozenset({"AgeMs", DOSE_KEY, EXPOSURE_KEY, *ANGLE_KEYS})
"""Metadata that are kept where their value is a number; others may hold anything."""
_NUMBER = re.compile(r"\s*[-+]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][-+]?[0-9]{1,3})?\s*")
"""Not all that ``float`` reads: 12_34_56 is rather somebody's."""
_WORDS: dict[str, tuple[str, ...]] = {
    STATUS_KEY: ("INVALID", "MISSING", "OK", ""),
    VALID_KEY: ("false", "true"),
    REPLAY_KEY: ("true", "false"),
    "Validity": ("INVALID", "DEGRADED", "VALID"),
}
"""Metadata that are kept, and their words; another word becomes the first, the one that trusts least."""
_KEPT_TYPES = ("IMAGE", "TRANSFORM", "TDATA", "QTDATA", "POSITION", "SENSOR", "STATUS")
"""Message types that are numeric, and states, without their texts; other texts, tables of images and commands may name
people."""
_KEPT_METADATA = ("version", "format", "replay", "from_start", "began_ns", VIDEO)
_NOTES = frozenset({"ct", "end", "gap", "spans"})
_OWN_WORDS = frozenset({"", "CT", "volume", "procedural", "sample", "reconstruction", "source", "plan", "file", "case"})
"""Also what stand-ins are made of."""
_PLACE = re.compile(
    r"(?<![\w/.])(?:[A-Za-z]:\\|\\\\|~?/)\S[\s\S]*"  # a path, and what follows: it may have spaces
    r"|\b[a-z][a-z0-9+.-]*://\S+"
    r"|(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\d.])"  # an IPv4 address
    r"|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*\](?::\d+)?"  # an IPv6 address
)
_LEAST_LETTERS = 3
"""Shorter names are replaced where they are names, and not looked for in texts."""
_TEXTS = frozenset({"reason", "text", "failure", "worker", "engine", "method", "notices"})
"""Keys of texts. Other strings are texts if they have a space or a slash: what else has none is a word of navnode's."""


class Names:
    """What stands in for the names of a session.

    Args:
        recording: read to its end, or to where it is damaged.
    """

    def __init__(self, recording: Recording, progress: Callable[[float], None] = lambda share: None) -> None:
        self.topics: Counter[str] = Counter()
        """Topic -> number of its entries."""
        self.config = configuration_of(recording)
        """None: there is none, or it cannot be read."""
        self.damage: DamagedError | None = None
        """What ended reading the session."""
        self.video = False
        """Whether X-rays say that they were taken off a video output."""
        self._looked_at: set[str] = set()
        self._stand_ins: dict[str, str] = {}
        self._kept = set(_OWN_WORDS)
        self._kinds: Counter[str] = Counter()
        if self.config is not None:
            self._learn_configured(self.config)
        span_ns = max(recording.end_ns - recording.start_ns, 1)
        try:
            for n, entry in enumerate(recording.raw()):
                self.topics[entry.channel.topic] += 1
                self._look_for_video(recording, entry)
                self._learn(recording, entry)
                if n % 2048 == 0:
                    progress(min(max((entry.log_time_ns - recording.start_ns) / span_ns, 0.0), 1.0))
        except DamagedError as error:
            self.damage = error
        harmless = self._kept | set(self._stand_ins.values())
        long = [name for name in self._stand_ins if len(name) >= _LEAST_LETTERS and name not in harmless]
        each = "|".join(map(re.escape, sorted(long, key=len, reverse=True)))
        self._within = re.compile(rf"(?<!\w)(?:{each})(?!\w)") if long else None

    def _look_for_video(self, recording: Recording, entry: Entry) -> None:
        """Learn from the first X-ray of a topic that can be read whether it was taken off a video output."""
        topic = entry.channel.topic
        if topic in self._looked_at or not topic.startswith("in/IMAGE/"):
            return
        with contextlib.suppress(DamagedError):  # of this X-ray alone, as it arrived
            image = recording.decoded(entry).content
            self._looked_at.add(topic)
            self.video |= isinstance(image, Image) and VIDEO_KEY in image.metadata

    def _learn_configured(self, config: Config) -> None:
        self._kept |= {tool.name for tool in config.tools} | {body.name for body in config.bodies}
        self._kept |= {tool.device for tool in config.tools} | {*msgspec.structs.astuple(config.devices)}
        for n, source in enumerate(config.sources, 1):
            self._add(f"{source.host}:{source.port}", f"source{n}:{source.port}")
            self._add(source.host, f"source{n}")
        if is_ct_file(config.volume.ct):
            self._add(config.volume.ct, "CT")
            self._add(Path(config.volume.ct).name, "CT")
        for path in _paths(config):
            self._add(path, "file")
            if Path(path).suffix:  # a folder may be called as a device is, which stays
                self._add(Path(path).name, "file")
        self._add(config.case.name, "case")

    def _learn(self, recording: Recording, entry: Entry) -> None:
        if entry.channel.encoding == BUS:
            answer = answer_of(entry.data)
            if isinstance(answer, VolumeReady) and answer.volume is not None:
                self.of("volume", answer.volume.name)
        elif entry.channel.encoding == JSON and _is_own(entry.channel):
            content = recording.decoded(entry).content
            assert isinstance(content, dict)
            for kind, name in _named(content):
                self.of(kind, name)

    def _add(self, name: str, stand_in: str) -> None:
        if name not in _OWN_WORDS:
            self._stand_ins.setdefault(name, stand_in)

    def of(self, kind: str, name: str) -> str:
        """What stands in for a name."""
        if name in _OWN_WORDS:
            return name
        if name not in self._stand_ins:
            self._kinds[kind] += 1
            number = self._kinds[kind]
            self._stand_ins[name] = kind if kind in ("CT", "volume") and number == 1 else f"{kind} {number}"
        return self._stand_ins[name]

    def text(self, text: str) -> str:
        """A text without names, paths and addresses."""
        if self._within is not None:
            text = self._within.sub(lambda found: self._stand_ins[found[0]], text)
        return _PLACE.sub("…", text)

    def cleaned(self, value: Any, key: str = "") -> Any:
        """A JSON value whose texts hold no names."""
        if isinstance(value, str):
            return self.text(value) if _is_text(key, value) else value
        if isinstance(value, dict):
            return {name: self.cleaned(each, name) for name, each in value.items()}
        return [self.cleaned(each, key) for each in value] if isinstance(value, list) else value


def _is_text(key: str, value: str) -> bool:
    return key in _TEXTS or " " in value or "/" in value or "\\" in value


_NAMES_OF_FILES = ("points", "targets", "phantom", "plate", "spheres", "folder")
"""Keys of ``[calibration]`` beside the calibrations themselves."""


def _paths(config: Config) -> Iterator[str]:
    """Whatever in a configuration names files."""
    yield from calibrations.files(config).values()
    kept, recording = config.calibration, config.recording
    yield from filter(None, (*(getattr(kept, key) for key in _NAMES_OF_FILES), config.plans.file))
    yield from filter(None, (recording.file, recording.folder, *(body.labels for body in config.bodies)))
    yield from filter(None, (body.file for body in config.bodies))


def _named(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names in a document, each with what it is the name of."""
    if document.get("kind") == "SourceState":
        yield "source", str(document.get("name"))
    if isinstance(document.get("sources"), dict):
        yield from (("source", name) for name in document["sources"])
    volume = document.get("volume")
    if isinstance(volume, str):
        yield "volume", volume
    elif isinstance(volume, dict):
        yield "volume", str(volume.get("name", ""))
    if "sha256" in document and "name" in document:
        yield "CT", str(document["name"])
    if document.get("kind") == "PlanCommand":
        yield "plan", str(document.get("name", ""))
    plans = document.get("plans")
    for plan in [document.get("plan"), *(plans if isinstance(plans, list) else ())]:
        if isinstance(plan, dict):
            yield "plan", str(plan.get("name", ""))
    yield from (("plan", str(document[key])) for key in ("plan", "active_plan") if isinstance(document.get(key), str))


def configuration_of(recording: Recording) -> Config | None:
    """The configuration of the node that recorded a session; None: there is none, or it cannot be read."""
    if CONFIGURATION not in recording.attachments:
        return None
    try:
        return decode(recording.attachment(CONFIGURATION), CONFIGURATION)
    except ConfigError:
        return None


def may_be_video(recording: Recording, config: Config | None) -> bool:
    """Whether X-rays may come from a video output, with names burned in: also where nobody knows, as in what another
    program recorded."""
    told = recording.metadata.get(VIDEO) == "true" or "imported" in recording.metadata
    return told or config is None or any(isinstance(source, VideoSource) for source in config.sources)


class Deidentifier:
    """Copies a session without what may identify people.

    Args:
        names: of the session.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self.removed: Counter[str] = Counter()
        """What was taken out or replaced -> number of entries."""

    def copy_about(self, recording: Recording, writer: ContainerWriter, about: Mapping[str, str]) -> None:
        """Copy metadata and attachments; calibrations describe devices, not people."""
        known = {k: self._names.text(v) for k, v in recording.metadata.items() if k in _KEPT_METADATA}
        if self._names.video or may_be_video(recording, self._names.config):
            known[VIDEO] = "true"  # the copy's sources do not tell
        writer.describe("navnode", {**known, **about, "deidentified": "true"})
        for name in recording.attachments:
            data = recording.attachment(name)
            kept: bytes | None
            if name == CONFIGURATION:
                kept = self._configuration(data)
            elif name.startswith(CALIBRATION):
                kept = self._calibration(data)
            else:
                kept = data if name == VERSIONS and _are_versions(data) else None
            if kept is None:
                self.removed["attachments"] += 1
                continue
            self.removed["texts of attachments"] += kept != data
            writer.attach(name, kept, "application/octet-stream", recording.start_ns)

    def _configuration(self, data: bytes) -> bytes:
        config, change = self._names.config, msgspec.structs.replace
        if config is None:
            return b"{}"
        # What a gateway was told of devices, callers and folders is nobody's business; its port says where it served.
        sources = tuple(SourceSection(host=f"source{n}", port=s.port) for n, s in enumerate(config.sources, 1))
        files = {key: f"{n}{Path(path).suffix}" for n, (key, path) in enumerate(calibrations.files(config).items(), 1)}
        cleaned = calibrations.with_files(config, files)
        emptied = dict.fromkeys(_NAMES_OF_FILES, "")
        cleaned = change(
            cleaned,
            sources=sources,
            volume=change(config.volume, ct="CT" if is_ct_file(config.volume.ct) else config.volume.ct, series=""),
            bodies=tuple(
                change(body, labels="labels" if body.labels else "", file="file" if body.file else "")
                for body in config.bodies
            ),
            calibration=change(cleaned.calibration, **emptied),
            recording=change(config.recording, file="", folder=""),
            console=change(config.console, host=ConsoleSection().host, insecure=False, tls=None),
            display=change(config.display, host=DisplaySection().host, insecure=False, names=()),
            reconstruction=change(config.reconstruction, remote=None),
            plans=change(config.plans, file=""),
            case=CaseSection(),
        )
        return data if cleaned == config else msgspec.json.encode(cleaned)

    def _calibration(self, data: bytes) -> bytes | None:
        """A calibration without the names of the files that it was made from; None: it is none."""
        try:
            decode_flat_field(data, "calibration")
        except CalibrationError:
            pass
        else:
            return data
        try:
            artifacts.decode(data, "calibration")
            document = msgspec.json.decode(data, type=dict[str, Any])
        except (CalibrationError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        cleaned = self._names.cleaned(document)
        if isinstance(document.get("inputs"), dict):
            cleaned["inputs"] = {
                f"input {n}": self._names.cleaned(v) for n, v in enumerate(document["inputs"].values(), 1)
            }
        result = cleaned.get("result")
        if isinstance(result, dict) and isinstance(result.get("out"), str):
            cleaned["result"] = {**result, "out": "file"}
        return data if cleaned == document else msgspec.json.encode(cleaned)

    # --- entries ------------------------------------------------------------------------------------------------------

    def copy(self, recording: Recording, entry: Entry, writer: ContainerWriter) -> bool:
        """Copy an entry without what may identify people; False: nothing of it is kept.

        Raises:
            DamagedError: the entry cannot be read.
        """
        encoding = entry.channel.encoding
        if encoding == OPENIGTLINK:
            parts = self._message(recording, entry)
        elif encoding == BUS:
            parts = self._answer(entry)
        elif encoding == JSON:
            parts = self._document(recording, entry)
        else:
            parts = None
        if parts is None:
            self.removed[f"messages of {_kind(entry.channel)}"] += 1
            return False
        writer.add(entry.channel, list(parts), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
        return True

    def _message(self, recording: Recording, entry: Entry) -> Iterable[bytes | memoryview] | None:
        if not any(f"/{kind}/" in entry.channel.topic for kind in _KEPT_TYPES):
            return None
        content = recording.decoded(entry).content
        assert isinstance(content, Message)
        if isinstance(content, Raw) or content.type not in _KEPT_TYPES:
            return None
        cleaned, metadata = content, _kept(content.metadata)
        if metadata != dict(content.metadata):
            cleaned = msgspec.structs.replace(cleaned, metadata=metadata)
            self.removed["metadata of messages"] += 1
        if isinstance(cleaned, StatusMessage) and (cleaned.text or cleaned.error_name):
            cleaned = msgspec.structs.replace(cleaned, text="", error_name="")  # the loop uses the code
            self.removed["texts of states"] += 1
        try:
            data = encode(cleaned)
        except LocalError:  # it could be read, and not written: nobody knows what all it says
            return None
        if cleaned is content and data != entry.data:  # behind the end of a name, or between what is decoded
            self.removed["what no decoder shows"] += 1
        return (data,)

    def _answer(self, entry: Entry) -> Iterable[bytes | memoryview]:
        answer = answer_of(entry.data)
        reason = self._names.text(answer.reason)
        match answer:
            case VolumeReady(volume=volume) if volume is not None:
                name = self._names.of("volume", volume.name)
                if (name, reason) != (volume.name, answer.reason):
                    self.removed["names in volumes"] += 1
                    return answer_parts(replace(answer, volume=replace(volume, name=name), reason=reason))
            case VolumeReady() | SurfaceReady() if reason != answer.reason:
                self.removed["names in volumes"] += 1
                return answer_parts(replace(answer, reason=reason))
        return (entry.data,)

    def _document(self, recording: Recording, entry: Entry) -> Iterable[bytes | memoryview] | None:
        if not _is_own(entry.channel):
            return None
        document = recording.decoded(entry).content
        assert isinstance(document, dict)
        cleaned = self._named(document)
        if cleaned == document:
            return (entry.data,)
        self.removed["texts of documents"] += 1
        return (encoded(cleaned),)

    def _named(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A document of a step, an output or an event with other names."""
        of = self._names.of
        cleaned: dict[str, Any] = self._names.cleaned(document)
        kind, volume, plan = (document.get(key) for key in ("kind", "volume", "plan"))
        if kind == "SourceState":
            cleaned |= {"name": of("source", str(document.get("name")))}
            cleaned |= {"reason": "" if document.get("connected") else "gone"}
        elif kind == "PlanCommand":
            cleaned |= {"name": of("plan", str(document.get("name", ""))), "origin": "a person"}
        elif kind == "WorkerState" and not document.get("alive"):
            cleaned |= {"reason": "gone"}
        if isinstance(volume, str):
            cleaned["volume"] = of("volume", volume)
        elif isinstance(volume, dict):
            cleaned["volume"] |= {"name": of("volume", str(volume.get("name", "")))}
        if "sha256" in document and "name" in document:
            cleaned["name"] = of("CT", str(document["name"]))
        if isinstance(plan, str):
            cleaned["plan"] = of("plan", plan)
        elif isinstance(plan, dict):
            cleaned["plan"] |= {"name": of("plan", str(plan.get("name", "")))}
        if isinstance(document.get("active_plan"), str):
            cleaned["active_plan"] = of("plan", document["active_plan"])
        if isinstance(document.get("plans"), list):
            cleaned["plans"] = [
                {**each, "name": of("plan", str(each.get("name", "")))} if isinstance(each, dict) else each
                for each in document["plans"]
            ]
        if isinstance(document.get("sources"), dict):
            cleaned["sources"] = {
                of("source", name): "" if why == "" else "not connected" for name, why in document["sources"].items()
            }
        if isinstance(document.get("worker"), str) and not document.get("worker_alive", True):
            cleaned["worker"] = "none"
        if isinstance(document.get("recording"), dict):
            cleaned["recording"] |= {key: "" for key in ("file", "failure") if key in document["recording"]}
        for key, empty in (("notices", []), ("text", "")):
            if document.get(key):
                cleaned[key] = empty
        return cleaned


def _is_own(channel: Channel) -> bool:
    """Whether a JSON document is the node's own; whoever else writes some may write anything."""
    kind, _, what = channel.topic.partition("/")
    return {"step": what == "", "out": what.partition("/")[0] in TOPICS, "node": what in _NOTES}.get(kind, False)


def _are_versions(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=Versions)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return not msgspec.json.decode(data, type=dict[str, Any]).keys() - set(Versions.__struct_fields__)


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that cannot identify a person."""
    kept = {key: value for key, value in metadata.items() if key in _NUMBERS and _NUMBER.fullmatch(value)}
    for key, words in _WORDS.items():
        if key in metadata:
            kept[key] = metadata[key] if metadata[key] in words else words[0]
    return kept


def _kind(channel: Channel) -> str:
    return "/".join(channel.topic.split("/")[:2]) if channel.encoding == OPENIGTLINK else channel.encoding
