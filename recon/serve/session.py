"""An incoming scan: the order of messages, what has arrived so far, and its limits."""

from __future__ import annotations

import math
import struct
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from recon import __version__
from recon.data import NOT_IMAGE, Encoding, Flag, Header, flag_bits
from recon.io import mrd_header
from recon.io.mrd_image import ImageMessage
from recon.io.mrd_lines import HEAD
from recon.prepare.announced import announced, encodes, lines_each
from recon.recipe import Recipe
from recon.serve import parameters, wire, words
from recon.serve.aside import Aside
from recon.serve.counting import Key
from recon.serve.scanner_images import Passing, replies
from recon.serve.settings import MiB
from recon.serve.wire import Acquisition, Close, Config, Query, Take, Text, Waveform, WireError, XmlHeader

Send = Callable[[bytes], None]

#: Encoding and counters.
Group = tuple[int, Key]

_FLAGS, _COUNTERS, _ENCODING = struct.Struct("<Q"), struct.Struct("<5H"), struct.Struct("<H")
_AT_FLAGS, _AT_COUNTERS = HEAD.fields["flags"][1], HEAD.fields["idx"][1] + HEAD["idx"].fields["slice"][1]  # type: ignore[index]
_CALIBRATION, _BOTH = flag_bits(Flag.CALIBRATION), flag_bits(Flag.CALIBRATION_AND_IMAGING)
_NOT_IMAGE, _LAST_IN_SLICE = flag_bits(*NOT_IMAGE), flag_bits(Flag.LAST_IN_SLICE)
_NOISE, _PHASECORR, _REVERSE = flag_bits(Flag.NOISE), flag_bits(Flag.PHASECORR), flag_bits(Flag.REVERSE)
_AT_ENCODING = HEAD.fields["encoding_space_ref"][1]  # type: ignore[index]


@dataclass
class Inbox:
    """What has arrived of a scan; one thread fills it, another takes from it. `changed` guards all fields.

    `ended` is set when no more will come, `error` if it ended badly; `closed` says that CLOSE was received.
    """

    recipe: str = ""
    #: The recipe with that name, with the values from the user interface.
    plan: Recipe = field(default_factory=Recipe)
    parsed: tuple[Header, tuple[Encoding, ...], tuple[str, ...]] | None = None
    lines: list[Acquisition] = field(default_factory=list)
    waveforms: int = 0
    images: Passing = field(default_factory=Passing)
    returned: int = 0
    bytes: int = 0
    closed: bool = False
    ended: bool = False
    error: Exception | None = None
    notes: list[str] = field(default_factory=list)
    #: Rows of each frame's imaging lines, and of all other lines except navigators (PHASECORR).
    frames: dict[Key, list[int]] = field(default_factory=dict)
    others: list[int] = field(default_factory=list)
    #: Rows of navigators, by the encoding and the counters of each slice, and of which of these lines are for
    #: calibration only.
    navigators: dict[int, dict[Group, list[int]]] = field(default_factory=dict)
    calibrating: dict[int, set[Group]] = field(default_factory=dict)
    #: Slices whose calibration-only lines came after lines of their images.
    again: set[int] = field(default_factory=set)
    #: Frames that may be complete.
    candidates: deque[Key] = field(default_factory=deque)
    #: Number of lines that a candidate had when it was named: if more came later, it was not complete.
    named: dict[Key, int] = field(default_factory=dict)
    #: In order: frames that received lines since they were last named; those of them that were named too early; whether
    #: any line is marked as the last of its slice.
    growing: set[Key] = field(default_factory=set)
    early: set[Key] = field(default_factory=set)
    flagged: bool = False
    #: Number of lines of a complete frame; another frame may be complete with the same number.
    usual: int = 0
    #: Number of lines of a frame without missing lines, and the smallest number that a frame may have.
    every: int = 0
    least: int = 1
    changed: threading.Condition = field(default_factory=threading.Condition)


def receive(
    take: Take, inbox: Inbox, recipes: Mapping[str, Recipe], most_bytes: int, send: Send, most_waiting: int = 256 * MiB
) -> None:
    """Read messages into the inbox until CLOSE or an error; images and queries are answered through `send`.

    `recipes` are those that may be requested. Images are processed in parallel with the reader, which continues until
    `most_waiting` bytes of them are waiting. In the end the inbox is always `ended`, and all images are answered.
    """
    error: Exception | None = None

    def answer(message: ImageMessage) -> None:
        for reply in replies(message, inbox.plan, inbox.images):
            send(wire.image(reply))

    aside: Aside[ImageMessage] = Aside(answer, most_waiting)
    try:
        _receive(take, inbox, recipes, most_bytes, send, aside)
    except Exception as e:
        error = e
    try:
        aside.finish()
    except Exception as e:
        error = error or e
    with inbox.changed:
        inbox.ended, inbox.error = True, error
        inbox.changed.notify_all()


def _receive(
    take: Take,
    inbox: Inbox,
    recipes: Mapping[str, Recipe],
    most_bytes: int,
    send: Send,
    aside: Aside[ImageMessage],
) -> None:
    bound, budget = wire.Limits(), 0
    stage, before = "config", 0
    while True:
        number = wire.read_id(take)
        if number != words.ACQUISITION or stage != "data":
            _in_order(stage, number)
        message = wire.read_body(number, take, bound)
        if isinstance(message, Acquisition):
            assert inbox.parsed is not None
            budget = budget or _budget(inbox.parsed[1], message, most_bytes)
            with inbox.changed:
                _file(inbox, message)
            if inbox.bytes > budget:
                raise WireError(
                    f"more than {budget // MiB} MiB of raw data arrived, more than the header announces or "
                    "this server allows; correct encodingLimits, or raise session_MiB and process_MiB"
                )
        elif isinstance(message, Config):
            stage, inbox.recipe = "header", _registered(message.text, recipes)
            inbox.plan = recipes[inbox.recipe]
        elif isinstance(message, XmlHeader):
            parsed = mrd_header.parse(message.xml)
            stage, bound = "data", wire.limits(parsed[1])
            with inbox.changed:
                inbox.parsed, first = parsed, parsed[1][0]
                inbox.every = math.prod(encodes(first)) * announced(first, "average")
                inbox.least = max(1, lines_each(first) // 2)
        elif isinstance(message, Text):
            # The scanner's user interface sends its text directly after the header; other texts are for people.
            if before == words.HEADER:
                given = parameters.wishes(message.text, inbox.notes)
                wanted = parameters.name(given)
                inbox.recipe = _registered(wanted, recipes) if wanted else inbox.recipe
                inbox.plan = parameters.applied(recipes[inbox.recipe], given, inbox.notes)
        elif isinstance(message, Waveform):
            inbox.waveforms += 1
        elif isinstance(message, ImageMessage):
            inbox.images.arrived(message, inbox.plan)
            aside.put(message, message.pixels.nbytes)
        elif isinstance(message, Query):
            send(words.response(message.correlation, _answer(message.text)))
        elif isinstance(message, Close):
            inbox.closed = True
            return
        before = number


def _file(inbox: Inbox, line: Acquisition) -> None:
    """Store a line with its frame, and name the frame if this line may have been its last."""
    (flags,) = _FLAGS.unpack_from(line.head, _AT_FLAGS)
    row = len(inbox.lines)
    inbox.lines.append(line)
    inbox.bytes += len(line.head) + line.data.nbytes + line.trajectory.nbytes
    key: Key = _COUNTERS.unpack_from(line.head, _AT_COUNTERS)
    if flags & _NOT_IMAGE or (flags & _CALIBRATION and not flags & _BOTH):
        if flags & _PHASECORR and not flags & _NOISE:
            inbox.navigators.setdefault(key[0], {}).setdefault(group_of(line), []).append(row)
        else:
            inbox.others.append(row)
            if flags & _CALIBRATION:
                inbox.calibrating.setdefault(key[0], set()).add(group_of(line))
        if flags & _CALIBRATION and any(k[0] == key[0] for k in inbox.frames):
            inbox.again.add(key[0])
        return
    rows = inbox.frames.get(key)
    if rows is None:
        rows = inbox.frames[key] = []
        if not inbox.usual:  # without flags: when another frame begins, earlier ones may be complete
            for other in list(inbox.growing & inbox.early if inbox.flagged else inbox.growing):
                if len(inbox.frames[other]) >= inbox.least:
                    _name(inbox, other)
    elif key in inbox.named:
        inbox.early.add(key)
    rows.append(row)
    inbox.growing.add(key)
    n = len(rows)
    inbox.flagged = inbox.flagged or bool(flags & _LAST_IN_SLICE)
    if flags & _LAST_IN_SLICE or n == inbox.usual or n == inbox.every:
        _name(inbox, key)


def group_of(line: Acquisition) -> Group:
    """Encoding and counters of a line: navigators with the same ones correct its ghost (`recon.prepare.epi`)."""
    (encoding,) = _ENCODING.unpack_from(line.head, _AT_ENCODING)
    key: Key = _COUNTERS.unpack_from(line.head, _AT_COUNTERS)
    return encoding, key


def reverse(line: Acquisition) -> bool:
    """Whether a line was read out backwards."""
    return bool(_FLAGS.unpack_from(line.head, _AT_FLAGS)[0] & _REVERSE)


def _name(inbox: Inbox, key: Key) -> None:
    """Name a frame that may be complete, with its current lines."""
    inbox.named[key] = len(inbox.frames[key])
    inbox.growing.discard(key)
    if key not in inbox.candidates:
        inbox.candidates.append(key)
        inbox.changed.notify_all()


def _in_order(stage: str, number: int) -> None:
    if number in (words.CONFIG_FILE, words.CONFIG_TEXT) and stage != "config":
        raise WireError("a second configuration arrived; send exactly one, as the first message")
    if number == words.HEADER and stage == "config":
        raise WireError("the header arrived before the configuration; send CONFIG_FILE or CONFIG_TEXT first")
    if number == words.HEADER and stage == "data":
        raise WireError("a second header arrived; send exactly one per scan")
    data = number in (words.ACQUISITION, words.WAVEFORM, words.IMAGE, words.TEXT)
    if data and stage != "data":
        raise WireError(
            f"message {number} arrived before the {stage}; send the configuration, the header and then data"
        )


def _registered(name: str, names: Collection[str]) -> str:
    if name not in names:
        # The name itself comes from the peer and is not repeated anywhere.
        raise WireError(
            f"the requested recipe is not registered here; registered are {', '.join(sorted(names))}: ask for "
            "one of them, or add it to the site's file"
        )
    return name


def _answer(question: str) -> str:
    if question == "gadgetron::info":
        return f"recon {__version__}\n"
    return "1.4.1" if question == "ismrmrd::version" else "Unknown query"


def _budget(encodings: tuple[Encoding, ...], line: Acquisition, most: int) -> int:
    """Bytes that a scan may send: a fifth more than its header announces, plus 256 MiB, and at most `most`."""
    channels, samples = (int(n) for n in line.data.shape)
    lines, longest = 0, samples
    for e in encodings:
        n1, n2 = encodes(e)
        lines += n1 * n2 * announced(e, "average", "slice", "contrast", "phase", "repetition", "set")
        longest = max(longest, e.encoded_matrix[0])
    each: int = len(line.head) + 8 * channels * longest + 4 * samples * line.trajectory.shape[1]
    return min(most, lines * each * 6 // 5 + 256 * MiB)


def stamp(message: ImageMessage, first: Acquisition, series: int, **values: int) -> ImageMessage:
    """A reconstructed image with the measurement, time and table position of a line, and with other header values."""
    head = message.header.copy()
    head["image_series_index"] += series
    line = np.frombuffer(first.head, HEAD)[0]
    for name in ("measurement_uid", "acquisition_time_stamp", "physiology_time_stamp", "patient_table_position"):
        head[name] = line[name]
    for name, value in values.items():
        head[name] = value
    return replace(message, header=head)
