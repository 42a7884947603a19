from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame, find_damage
from edge.sources.bags.source import split_name
from edge.sources.factory import is_camera, open_source
from tests.conftest import Outcome

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'aerogaze[bags]'")
from tests.support.bags import (
    START_NS,
    STEP_NS,
    Picture,
    Storage,
    compressed,
    flight,
    raw,
    write_bag,
)

STORAGES: list[Storage] = ["ros1", "sqlite3", "mcap"]
IMAGES = flight(12)


def read(name: str) -> list[Frame]:
    source = open_source(name)
    try:
        return list(source)
    finally:
        source.close()


def read_damaged(name: str) -> tuple[list[Frame], tuple[str, ...]]:
    with closing(open_source(name)) as source:
        return list(source), find_damage(source)


def path_of(folder: Path, storage: Storage) -> Path:
    return folder / ("flight.bag" if storage == "ros1" else "flight")


def single_file(bag: Path) -> Path:
    """Return the storage file of a bag."""
    return bag if bag.is_file() else next(bag.glob("*.db3"), None) or next(bag.glob("*.mcap"))


@pytest.mark.parametrize("storage", STORAGES)
def test_bag_gives_its_images_at_their_times(storage: Storage, tmp_path: Path) -> None:
    topics = {"/camera/image_raw": [raw(image) for image in IMAGES], "/imu": []}
    bag = write_bag(path_of(tmp_path, storage), storage, {"/camera/image_raw": topics["/camera/image_raw"]})
    source = open_source(f"bag:{bag}")
    assert (source.width, source.height, source.length) == (64, 48, 12)
    assert source.fps == pytest.approx(20)
    assert source.name == f"bag:{bag}#/camera/image_raw"
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.capture_s for frame in frames] == pytest.approx([index / 20 for index in range(12)])
    assert frames[3].stamp_ns == START_NS + 150_000_000 - 10**6
    assert frames[3].frame_id == "camera"
    np.testing.assert_array_equal([frame.image for frame in frames], IMAGES)


@pytest.mark.parametrize("storage", STORAGES)
def test_file_of_a_bag_alone_is_read(storage: Storage, tmp_path: Path) -> None:
    bag = write_bag(path_of(tmp_path, storage), storage, {"/c": [compressed(image) for image in IMAGES]})
    frames = read(f"BAG:{single_file(bag)}")
    assert [frame.index for frame in frames] == list(range(12))
    assert np.abs(frames[0].image.astype(int) - IMAGES[0]).mean() < 8


def test_headers_without_time_give_way_to_the_times_of_recording(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [raw(image) for image in IMAGES]}, stamped=False)
    frames = read(f"bag:{bag}")
    assert frames[2].capture_s == pytest.approx(0.1)
    assert frames[2].stamp_ns == START_NS + 100_000_000


def test_times_that_repeat_still_increase(tmp_path: Path) -> None:
    pictures = [Picture(i, 64, 48, "bgr8", stamp_ns=START_NS) for i in IMAGES[:3]]
    times = [
        frame.capture_s for frame in read(f"bag:{write_bag(tmp_path / 'b', 'sqlite3', {'/c': pictures})}")
    ]
    assert times == sorted(set(times))


def test_frame_rate_of_the_user_replaces_the_recorded_times(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(image) for image in IMAGES]})
    with closing(open_source(f"bag:{bag}", fps=5)) as source:
        frames = list(source)
    assert [frame.capture_s for frame in frames[:3]] == pytest.approx([0, 0.2, 0.4])


def test_topic_is_chosen_and_the_topics_are_listed(tmp_path: Path) -> None:
    topics = {"/day/image_raw": [raw(i) for i in IMAGES], "/thermal/compressed": [compressed(IMAGES[0])]}
    bag = write_bag(tmp_path / "b#1.bag", "ros1", topics)
    assert len(read(f"bag:{bag}#/thermal/compressed")) == len(read(f"bag:{bag}#thermal/compressed")) == 1
    with pytest.raises(InputError, match="has several topics with images; name one: bag:") as error:
        open_source(f"bag:{bag}")
    assert f"bag:{bag}#/day/image_raw (sensor_msgs/msg/Image, 12 messages), bag:" in str(error.value)
    with pytest.raises(InputError, match="has no topic '/nope'; name one: bag:"):
        open_source(f"bag:{bag}#/nope")
    assert split_name(f"bag:{bag}") == (bag, None)
    assert not is_camera(f"bag:{bag}")


def test_bag_without_images_names_its_topics(tmp_path: Path) -> None:
    from rosbags import rosbag1
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    with rosbag1.Writer(tmp_path / "b.bag") as writer:
        connection = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
        text = store.types["std_msgs/msg/String"](data="hello")
        writer.write(connection, 1, store.serialize_ros1(text, "std_msgs/msg/String"))
    with pytest.raises(InputError, match=r"has no images; its topics: /chatter \(std_msgs/msg/String\)"):
        open_source(f"bag:{tmp_path / 'b.bag'}")
    with pytest.raises(InputError, match="#/chatter has std_msgs/msg/String messages; its topics: "):
        open_source(f"bag:{tmp_path / 'b.bag'}#/chatter")


def test_deep_images_follow_one_range_of_the_whole_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = np.tile(np.linspace(7000, 7100, 64), (48, 1)).astype(np.uint16)
    bag = write_bag(tmp_path / "b", "mcap", {"/t": [raw(ramp + 50 * i, "mono16") for i in range(5)]})
    frames = read(f"bag:{bag}")
    assert frames[0].image.max() < 130
    assert frames[4].image.min() > 120
    monkeypatch.setenv("AEROGAZE_RANGE", "7000,7100")
    assert np.ptp(read(f"bag:{bag}")[0].image) > 250


def test_jpegs_are_decoded_smaller_where_that_suffices(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [compressed(IMAGES[0])] * 3})
    with closing(open_source(f"bag:{bag}", min_size=(16, 12))) as source:
        frame = next(iter(source))
    assert (frame.scale, frame.image.shape, frame.width) == (4, (12, 16, 3), 64)


def test_damaged_images_are_left_out_and_named(tmp_path: Path) -> None:
    pictures = [raw(image) for image in IMAGES]
    pictures[4] = Picture(IMAGES[0], 64, 480, "bgr8")
    bag = write_bag(tmp_path / "b", "sqlite3", {"/c": pictures})
    frames, damage = read_damaged(f"bag:{bag}")
    assert [frame.index for frame in frames] == [0, 1, 2, 3, *range(5, 12)]
    assert damage == (f"bag:{bag}#/c: 1 image left out: 4 (9216 bytes do not hold 64x480 pixels of bgr8)",)


def test_unknown_encoding_ends_with_its_name(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [Picture(IMAGES[0], 64, 48, "cmyk8")]})
    with pytest.raises(
        InputError, match="has no image that can be read: unknown encoding 'cmyk8'; expected one"
    ):
        open_source(f"bag:{bag}")


def test_another_size_in_a_topic_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [raw(IMAGES[0]), raw(cv2.resize(IMAGES[0], (32, 24)))]})
    with pytest.raises(InputError, match=r"image 1 of bag:.* is 32x24, the first one is 64x48"):
        read(f"bag:{bag}")


@pytest.mark.parametrize(
    ("storage", "share"), [("ros1", 0.3), ("ros1", 0.97), ("mcap", 0.3), ("mcap", 0.97), ("sqlite3", 0.7)]
)
def test_bag_that_was_cut_off_gives_what_is_before(storage: Storage, share: float, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 192, 256, 3)).astype(np.uint8)
    file = single_file(write_bag(path_of(tmp_path, storage), storage, {"/c": [raw(i) for i in images]}))
    data = file.read_bytes()
    cut = tmp_path / f"cut{file.suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    frames, damage = read_damaged(f"bag:{cut}")
    assert damage
    assert 0.3 < len(frames) / (share * len(images)) <= 1.05
    for frame in frames:
        np.testing.assert_array_equal(frame.image, images[frame.index])


def test_ros1_bag_that_was_never_indexed_is_read(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(image) for image in IMAGES]})
    data = bytearray(bag.read_bytes())
    place = data.index(b"index_pos=") + len(b"index_pos=")
    data[place : place + 8] = bytes(8)
    (tmp_path / "b.bag.active").write_bytes(data)
    frames, damage = read_damaged(f"bag:{tmp_path / 'b.bag.active'}")
    assert len(frames) == 12
    assert "was read without its index (Bag is not indexed" in damage[0]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_folder_without_metadata_is_read_by_its_files(storage: Storage, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", storage, {"/c": [raw(image) for image in IMAGES]})
    (bag / "metadata.yaml").unlink()
    frames, damage = read_damaged(f"bag:{bag}")
    assert len(frames) == 12
    assert "metadata.yaml is missing" in damage[0]


def test_file_that_a_killed_recorder_had_just_begun_hides_no_other_one(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [raw(image) for image in IMAGES]})
    (bag / "metadata.yaml").unlink()
    (bag / "b_1.mcap").write_bytes(b"")
    frames, damage = read_damaged(f"bag:{bag}")
    assert len(frames) == 12
    assert "b_1.mcap is empty" in damage[1]


def test_damage_of_a_file_is_named_once_however_often_the_bag_is_read(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "sqlite3", {"/c": [raw(image) for image in IMAGES]})
    (bag / "metadata.yaml").unlink()
    file = single_file(bag)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3 * 4096] = bytes(range(256)) * 48
    file.write_bytes(data)
    with closing(open_source(f"bag:{bag}")) as source:
        list(source)
        damage = find_damage(source)
        list(source)
        assert find_damage(source) == damage
    assert sum(f"the rest of {file.name} cannot be read" in line for line in damage) == 1


def test_index_with_impossible_lengths_is_not_used(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "mcap", {"/c": [raw(image) for image in IMAGES]})
    file = single_file(bag)
    data = file.read_bytes()
    summary = int.from_bytes(data[-28:-20], "little")
    file.write_bytes(data[: summary + 1] + b"\xff" * 8 + data[summary + 9 :])
    assert len(read(f"bag:{bag}")) == 12


def test_damaged_rows_of_topics_are_left_out(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "sqlite3", {"/c": [raw(IMAGES[0])], "/d": [raw(IMAGES[0])]})
    with closing(sqlite3.connect(single_file(bag))) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE topics SET type = CAST(x'00' AS BLOB) WHERE name = '/d'")
    frames, damage = read_damaged(f"bag:{single_file(bag)}")
    assert len(frames) == 1
    assert "a topic without name or type" in damage[0]


def test_ros1_record_without_an_operation_is_passed_over(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(image) for image in IMAGES]})
    data = bag.read_bytes()
    header = b"\x03\0\0\0op="
    record = len(header).to_bytes(4, "little") + header + bytes(4)
    start = len(b"#ROSBAG V2.0\n")
    bag.write_bytes(data[:start] + record + data[start:])
    frames, damage = read_damaged(f"bag:{bag}")
    assert len(frames) == 12
    assert "was read without its index" in damage[0]


def test_malformed_metadata_is_not_needed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b", "sqlite3", {"/c": [raw(image) for image in IMAGES]})
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    assert len(read(f"bag:{bag}")) == 12


def test_compressed_storages_are_read(tmp_path: Path) -> None:
    from rosbags import rosbag1

    plain = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(image) for image in IMAGES]})
    with rosbag1.Reader(plain) as reader:
        for form in rosbag1.Writer.CompressionFormat:
            path = tmp_path / f"{form.name}.bag"
            writer = rosbag1.Writer(path)
            writer.set_compression(form)
            with writer:
                (old,) = reader.connections
                new = writer.add_connection("/c", old.msgtype, msgdef=old.msgdef.data, md5sum=old.digest)
                for _, time_ns, data in reader.messages():
                    writer.write(new, time_ns, data)
            assert len(read(f"bag:{path}")) == 12
            whole = path.read_bytes()
            path.write_bytes(whole[: whole.rindex(b"op=\x06")])  # the index is cut off
            assert len(read(f"bag:{path}")) == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.bag", None, "no bag .*none.bag; expected bag:FILE"),
        ("empty.bag", b"", "is empty; expected a bag"),
        ("text.bag", b"hello", "is no bag; expected a ROS 1 bag"),
        ("old.bag", b"#ROSBAG V1.2\n", "is no bag; expected a ROS 1 bag"),
        ("head.bag", b"#ROSBAG V2.0\n", "has no whole message"),
        ("head.mcap", b"\x89MCAP0\r\n", "has no whole message; expected an MCAP file"),
        ("head.db3", b"SQLite format 3\0" + bytes(100), "has no topics that can be read"),
    ],
)
def test_bad_bag_is_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_source(f"bag:{tmp_path / name}")
    assert "\n" not in str(error.value)


def test_folder_that_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is no bag: metadata.yaml is missing, and there is no .db3 or .mcap"
    ):
        open_source(f"bag:{tmp_path}")


def test_database_of_something_else_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "b.db3") as connection:
        connection.execute("CREATE TABLE songs (name)")
    with pytest.raises(InputError, match=r"has no topics that can be read \(no such table: topics\)"):
        open_source(f"bag:{tmp_path / 'b.db3'}")


def test_bag_named_as_a_file_gets_the_right_name(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(IMAGES[0])]})
    with pytest.raises(InputError, match=f"{bag} is a bag; give it as bag:{bag}"):
        open_source(str(bag))


def test_command_runs_on_a_bag_and_never_over_it(tmp_path: Path, command: Callable[..., Outcome]) -> None:
    bag = write_bag(tmp_path / "b.bag", "ros1", {"/c": [raw(image) for image in IMAGES]})
    outcome: Outcome = command("run", f"bag:{bag}", "--jsonl", tmp_path / "out.jsonl", "--release", "skd-32")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    stamps = [(row["stamp_ns"], row["frame_id"]) for row in rows]
    assert stamps == [(START_NS + index * STEP_NS - 10**6, "camera") for index in range(12)]
    outcome = command("run", f"bag:{bag}#/c", "--jsonl", bag)
    assert (outcome.code, "it is the source" in outcome.err) == (2, True)
