"""Source of the images in a bag, `bag:FLIGHT[#TOPIC]`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import numpy as np

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import Frame, Image
from edge.sources.bags.messages import BagImage, Parser, find_parser, is_video
from edge.sources.bags.opening import open_storage
from edge.sources.bags.storage import BagDamageError, BagStorage, BagTopic, Messages
from edge.sources.image_folder import choose_scale
from edge.sources.pixel_range import MEASURED_IMAGES, configured_range, measure_range, to_colour
from edge.sources.ros.encodings import Pixels

SCHEME = "bag:"
FALLBACK_FPS = 10.0
TIMED_MESSAGES = 32
"""Messages from which the frame rate is found."""
NAMED_IMAGES = 3
NAMED_TOPICS = 12


class BagImages:
    """Images of one topic of an open bag, as 8-bit BGR; deeper ones by the rule of `pixel_range`.

    Args:
        storage: The bag.
        topic: The topic.
        parse: Reads its messages.

    Attributes:
        skipped: Reason by index for the images that could not be decoded so far.
        end: Why the rest of the bag cannot be read; None if it can.
    """

    def __init__(self, storage: BagStorage, topic: BagTopic, parse: Parser) -> None:
        self.storage, self.topic, self._parse = storage, topic, parse
        self._range = configured_range()
        self.skipped: dict[int, str] = {}
        self.end: str | None = None

    def messages(self, first_index: int = 0, start_ns: int = 0) -> Iterator[tuple[int, int, BagImage]]:
        """Yield index, time of recording and message; damaged ones are left out and recorded."""
        for index, (time_ns, data) in enumerate(self._until_damage(start_ns), first_index):
            if (message := self._try_parse(index, data)) is not None:
                yield index, time_ns, message

    def _try_parse(self, index: int, data: bytes) -> BagImage | None:
        try:
            return self._parse(data)
        except Exception as error:  # the parsers raise what they like for damaged bytes
            self.skipped[index] = f"damaged message ({type(error).__name__})"
            return None

    def decode(self, index: int, message: BagImage, scale: int = 1) -> tuple[Image, int] | None:
        """Return an image and its scale; None if it cannot be decoded, which is recorded."""
        try:
            pixels, scale = message.decode(scale)
        except ValueError as error:
            self.skipped[index] = str(error)
            return None
        if pixels.dtype == np.uint8:
            return to_colour(pixels), scale
        if self._range is None:
            self._range = measure_range(self._measured())
        return self._range.to_8_bits(pixels), scale

    def times(self) -> list[int]:
        """Return the time of recording of each message, in nanoseconds; reads the whole topic."""
        return [time_ns for time_ns, _ in self._until_damage(0)]

    def _until_damage(self, start_ns: int) -> Messages:
        try:
            yield from self.storage.messages(self.topic.name, start_ns)
        except BagDamageError as error:
            self.end = str(error)

    def _measured(self) -> Iterator[Pixels]:
        """Yield images of more than 8 bits that are spread over the recording."""
        wanted = np.linspace(0, max(0, self.topic.count - 1), MEASURED_IMAGES).round().astype(int).tolist()
        for index, (_, data) in enumerate(self._until_damage(0)):
            if index in wanted and (message := self._try_parse(index, data)) is not None:
                with suppress(ValueError):  # named when it is read
                    pixels, _ = message.decode(1)
                    if pixels.dtype != np.uint8:
                        yield pixels


class BagSource:
    """Images of one topic of a bag.

    The time of a frame is that of its header, or that of its recording where nobody has set the header.
    Images that cannot be decoded leave a gap in the frame indices.

    Args:
        name: `bag:FLIGHT[#TOPIC]`. FLIGHT is a file or the folder of a ROS 2 bag; without a topic, the bag
            must have one topic with images.
        min_size: Width and height that suffice: JPEGs are decoded smaller; None for the full size.

    Raises:
        InputError: There is no bag, topic or image; several topics have images; or, while reading, an image
            has another size.
    """

    def __init__(self, name: str, min_size: tuple[int, int] | None = None) -> None:
        self._path, wanted = split_name(name)
        if not self._path.exists():
            raise InputError(
                f"no bag {printable(str(self._path))}; expected bag:FILE[#TOPIC] or bag:FOLDER[#TOPIC]"
            )
        self._storage = open_storage(self._path)
        try:
            self._images = choose_topic(self._storage, self._path, wanted)
            self.name = f"{SCHEME}{self._path}#{self._images.topic.name}"
            self._find_first(min_size)
        except BaseException:
            self._storage.close()
            raise
        self.length: int | None = self._images.topic.count

    def _find_first(self, min_size: tuple[int, int] | None) -> None:
        """Find size, time and frame rate from the first messages."""
        stamps: list[int] = []
        size: tuple[int, int] | None = None
        self._uses_header = True
        for index, time_ns, message in islice(self._images.messages(), TIMED_MESSAGES):
            self._uses_header = self._uses_header if stamps else message.stamp_ns > 0
            stamps.append(self._stamp_ns(time_ns, message))
            if size is None and (decoded := self._images.decode(index, message)) is not None:
                size = decoded[0].shape[0], decoded[0].shape[1]
        if size is None:
            reason = next(iter(self._images.skipped.values()), self._images.end or "it is empty")
            raise InputError(
                f"{printable(self.name)} has no image that can be read: {reason}; choose another topic or bag"
            )
        self.height, self.width = size
        self._scale = choose_scale(self.width, self.height, min_size)
        self._start_ns = stamps[0]
        steps = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        fps = 1e9 / median(steps) if steps else FALLBACK_FPS
        self._stated_fps = self.fps = round(fps, 3) if 0.001 <= fps <= 1000 else FALLBACK_FPS

    def _stamp_ns(self, time_ns: int, message: BagImage) -> int:
        return message.stamp_ns if self._uses_header else time_ns

    @property
    def damage(self) -> list[str]:
        """What could not be read so far."""
        images, lines = self._images, list(self._storage.damage)
        if images.skipped:
            reasons = [f"{index} ({reason})" for index, reason in sorted(images.skipped.items())]
            rest = f" and {len(reasons) - NAMED_IMAGES} more" if len(reasons) > NAMED_IMAGES else ""
            images_ = f"{len(reasons)} image{'s' * (len(reasons) != 1)}"
            lines.append(f"{images_} left out: {', '.join(reasons[:NAMED_IMAGES])}{rest}")
        if images.end:
            lines.append(f"the rest cannot be read: {images.end}")
        return [f"{printable(self.name)}: {line}" for line in lines]

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        last_s = -math.inf
        for index, time_ns, message in self._images.messages():
            decoded = self._images.decode(index, message, self._scale)
            if decoded is None:
                continue
            stamp_ns = self._stamp_ns(time_ns, message)
            media_s = (stamp_ns - self._start_ns) / 1e9
            if self.fps != self._stated_fps:  # the user knows better
                media_s = index / self.fps
            elif not media_s > last_s:  # repeated or out of order
                media_s = last_s + 1 / self.fps
            last_s = media_s
            frame = Frame(index, media_s, *decoded, stamp_ns=stamp_ns, frame_id=message.frame_id)
            if (frame.width, frame.height) != (self.width, self.height):
                raise InputError(
                    f"image {index} of {printable(self.name)} is {frame.width}x{frame.height}, the first one "
                    f"is {self.width}x{self.height}; expected one size in a topic: choose "
                    "another topic, or record each size as a topic of its own"
                )
            yield frame

    def close(self) -> None:
        """Close the bag."""
        self._storage.close()


def split_name(name: str) -> tuple[Path, str | None]:
    """Return path and topic of `bag:PATH[#TOPIC]`; a path with # in it is taken whole where it exists."""
    text = name.removeprefix(SCHEME)
    path, hash_, topic = text.rpartition("#")
    if not hash_ or Path(text).exists():
        return Path(text), None
    return Path(path), topic


def choose_topic(storage: BagStorage, path: Path, wanted: str | None) -> BagImages:
    """Return the images of the wanted topic, or of the only topic with images.

    Raises:
        InputError: There is no such topic, it has no images, or the choice is not clear; all topics with
            images are named.
    """
    topics = {topic.name: parse for topic in storage.topics.values() if (parse := find_parser(topic))}
    shown = f"{SCHEME}{printable(str(path))}"
    if wanted is None and len(topics) == 1:
        wanted = next(iter(topics))
    if wanted is not None:
        name = next((name for name in (wanted, f"/{wanted}") if name in storage.topics), None)
        if name in topics:
            return BagImages(storage, storage.topics[name], topics[name])
        if name is not None:
            topic = storage.topics[name]
            kind = (
                "coded video, which is not read" if is_video(topic) else f"{printable(topic.type)} messages"
            )
            raise InputError(f"{shown}#{printable(name)} has {kind}; {_list_topics(storage, path, topics)}")
        raise InputError(f"{shown} has no topic {printable(wanted)!r}; {_list_topics(storage, path, topics)}")
    if topics:
        raise InputError(f"{shown} has several topics with images; {_list_topics(storage, path, topics)}")
    raise InputError(
        f"{shown} has no images; {_list_topics(storage, path, topics)}; expected a topic of ROS images or of "
        "Foxglove's: choose another bag"
    )


def _list_topics(storage: BagStorage, path: Path, topics: dict[str, Parser]) -> str:
    """Return the topics with images as names of sources; the other topics if there are none."""
    if topics:
        names = [
            f"{SCHEME}{path}#{name} ({storage.topics[name].type}, {storage.topics[name].count} messages)"
            for name in sorted(topics)
        ]
    else:
        names = [f"{name} ({topic.type})" for name, topic in sorted(storage.topics.items())]
    rest = f" and {len(names) - NAMED_TOPICS} more" if len(names) > NAMED_TOPICS else ""
    lead = "name one: " if topics else "its topics: "
    return f"{lead}{printable(', '.join(names[:NAMED_TOPICS]) or 'none')}{rest}"
