"""Tests of the guarded readers: whatever the bytes are, there is an answer or one error of one line."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.guarded_files import MAX_DEPTH, is_missing, parse_json, read_arrays, read_bytes, read_json
from edge.core.protobuf_wire import iter_fields
from edge.core.toml_reader import read_toml, tomllib

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


def one_line(error: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_only_a_path_without_anything_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert is_missing(tmp_path / "nothing")
    assert not is_missing(tmp_path / "file")
    assert not is_missing(tmp_path / "link")
    assert not is_missing(tmp_path / "file" / "below"), "it cannot be looked up"


def test_pipe_is_read_once_and_guarded_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(data: bytes) -> Path:
        source, target = os.pipe()
        os.write(target, data)
        os.close(target)
        return Path(f"/dev/fd/{source}")

    assert read_bytes(piped(b"content"), 7, "a key", accepts_pipe=True) == b"content"
    assert read_toml(piped(b"a = 1"), "options") == {"a": 1}
    with pytest.raises(InputError, match="is larger than 6 bytes; expected a key"):
        read_bytes(piped(b"content"), 6, "a key", accepts_pipe=True)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"from a writer"))
    writer.start()
    assert read_bytes(tmp_path / "pipe", 100, "a key", accepts_pipe=True) == b"from a writer"
    writer.join()
    monkeypatch.setattr("edge.core.guarded_files.PIPE_TIMEOUT_S", 0.05)
    with pytest.raises(InputError, match=r"nobody completes it within 0\.05 s; expected a key"):
        read_bytes(tmp_path / "pipe", 100, "a key", accepts_pipe=True)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "dead link", "too large", "device"])
def test_path_that_is_no_readable_file_is_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dead link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "too large":
        path.write_bytes(bytes(11))
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(InputError, match="expected a key") as error:
        read_bytes(path, 10, "a key")
    assert one_line(error)
    with pytest.raises(InputError) as error:
        read_arrays(path, ["a"], "arrays")
    assert one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", "null", "NaN", '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": -1e999}',
        '{"a": ' + "9" * 21 + "}", '{"a": -' + "9" * 5000 + "}", '{"a": ' * 200_000, "[" * 500_000,
        '{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}", '{"a": "\ud800"', "\x00",
    ],
    ids=lambda text: text[:20].encode("ascii", "replace").decode() + str(len(text)),
)  # fmt: skip
def test_text_that_is_no_document_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="cannot be read as JSON") as error:
        read_json(tmp_path / "d.json", "a document")
    assert one_line(error)


def test_document_within_the_limits_is_read() -> None:
    document = {"a": [1, -2.5, "x", None, True, {"b": 1 << 63}]}
    assert parse_json(json.dumps(document)) == document
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(deep)) == deep


@FUZZ
@given(data=st.binary(max_size=200) | st.text('{}[]",:0123456789.eE+-nulltrueINfity \\').map(str.encode))
def test_any_bytes_are_a_document_or_a_value_error(data: bytes) -> None:
    try:
        document = parse_json(data)
    except ValueError:
        return
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 100_000, "a=" + "{b=" * 50_000, ".".join(["a"] * 5_000) + "=1", "a=" + "9" * 5000,
        "a=0x" + "f" * 5000, "a=" + "[" * 80 + "]" * 80, "a='\0'", "\udcff", "a = " + "1" * (1 << 20),
        "[a" + ".a" * 5000 + "]", ".".join("a" * 500_000) + "=1", "','.\"\\\".\" . " * 70_000 + "a=1",
        '"""\\"""' * 100_000, '"""' + "\\" * 99_999, "'''" * 99_999, "'" * 999_999, '"' * 999_999,
    ],
    ids=lambda text: text[:12].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_toml_beyond_the_limits_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="expected options") as error:
        read_toml(tmp_path / "t.toml", "options")
    assert one_line(error)


@pytest.mark.parametrize("before", ["", "[b]\n", "b = {c = '''d'''', ", 'b = {c = """d\\""""", '])
def test_key_of_too_many_parts_is_refused_before_the_slow_parser_sees_it(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("it was parsed"))
    (tmp_path / "t.toml").write_text(before + ".".join("a" * 65) + " = 1")
    with pytest.raises(InputError, match="nested deeper than 64 levels"):
        read_toml(tmp_path / "t.toml", "options")


def test_toml_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_bytes("a = 1\r\n".encode("utf-8-sig"))
    assert read_toml(tmp_path / "t.toml", "options") == {"a": 1}


def test_dots_in_strings_comments_and_lists_are_no_levels(tmp_path: Path) -> None:
    dots, rates = "a." * 100, [index / 2 for index in range(100)]
    lines = [f"a.b = '{dots}'  # {dots}", f'c = "{dots}"', f"d = {rates}", f'e = """{dots}"""']
    (tmp_path / "t.toml").write_text("\n".join([*lines, f"f = ''''{dots}'''''"]))
    document = read_toml(tmp_path / "t.toml", "options")
    assert document == {"a": {"b": dots}, "c": dots, "d": rates, "e": dots, "f": f"'{dots}''"}


def array_bytes(shape: object, descr: object = "|u1", body: bytes = b"", version: int = 1) -> bytes:
    """Return the bytes of an .npy file with any header."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + body


def zip_bytes(data: bytes, method: int = zipfile.ZIP_DEFLATED, name: str = "a.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def flag_encrypted(data: bytes) -> bytes:
    content, central = bytearray(data), data.find(b"PK\x01\x02")
    content[6] |= 1
    content[central + 8] |= 1
    return bytes(content)


def spoil(data: bytes) -> bytes:
    content = bytearray(data)
    content[60:100] = b"\xff" * 40
    return bytes(content)


MEBI = 1 << 20
DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no zip": lambda: b"PK" * 100,
    "another name": lambda: zip_bytes(array_bytes((1,), body=b"x"), name="b.npy"),
    "objects": lambda: zip_bytes(array_bytes((1,), "|O", b"\x80\x04K\x01.")),
    "nested objects": lambda: zip_bytes(array_bytes((1,), [("f", "|O")], b"\x80\x04K\x01.")),
    "shape beyond the data": lambda: zip_bytes(array_bytes((10**12, 32, 32, 3))),
    "shape that overflows": lambda: zip_bytes(array_bytes((2**63 - 1, 2**63 - 1))),
    "negative shape": lambda: zip_bytes(array_bytes((-1, 3), body=bytes(9))),
    "less than the data": lambda: zip_bytes(array_bytes((1,), body=bytes(9))),
    "bomb": lambda: zip_bytes(array_bytes((9 * MEBI,), body=bytes(9 * MEBI))),
    "deep header": lambda: zip_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 8999 + b"\n"),
    "long header": lambda: zip_bytes(array_bytes((1,), "|u1" + " " * 200_000, b"x", version=2)),
    "no header": lambda: zip_bytes(b"\x93NUMPY\x01\x00"),
    "version 9": lambda: zip_bytes(array_bytes((1,), body=b"x", version=9)),
    "type unknown": lambda: zip_bytes(array_bytes((1,), "zz", b"x")),
    "encrypted": lambda: flag_encrypted(zip_bytes(array_bytes((1,), body=b"x"), zipfile.ZIP_STORED)),
    "spoilt": lambda: spoil(zip_bytes(array_bytes((5000,), body=os.urandom(5000)))),
    "lzma": lambda: zip_bytes(array_bytes((1,), body=b"x"), zipfile.ZIP_LZMA),
    "checksum": lambda: zip_bytes(array_bytes((1,), body=b"x"), zipfile.ZIP_STORED).replace(
        b"\nxPK", b"\nyPK"
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_arrays_are_one_error_within_a_bound_of_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(DAMAGED[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="expected arrays") as error:
            read_arrays(path, ["a"], "arrays", max_bytes=4 * MEBI)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBI
    finally:
        tracemalloc.stop()
    assert one_line(error)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_wrote_them(tmp_path: Path, save: Callable[..., None]) -> None:
    written: dict[str, NDArray[Any]] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
    }
    save(tmp_path / "a.npz", **written, empty=np.zeros((0, 3)))
    arrays = read_arrays(tmp_path / "a.npz", ["a", "b", "empty"], "arrays")
    assert all(np.array_equal(arrays[name], array) for name, array in written.items())
    assert arrays["empty"].shape == (0, 3)


@FUZZ
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_changed_bytes_are_arrays_or_one_error(tmp_path: Path, places: list[tuple[int, int]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(64, dtype=np.float32), b=np.arange(7, dtype=np.uint8))
    content = bytearray(buffer.getvalue())
    for place, value in places:
        content[place % len(content)] = value
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with suppress(InputError):
        read_arrays(path, ["a", "b"], "arrays", max_bytes=MEBI)


@pytest.mark.parametrize("end", [b"", b"\x01"])
def test_number_without_an_end_is_no_protobuf(end: bytes) -> None:
    with pytest.raises(ValueError, match="without an end"):
        list(iter_fields(memoryview(b"\x08" + b"\xff" * 1_000_000 + end)))


@FUZZ
@given(data=st.binary(max_size=100))
def test_any_bytes_are_protobuf_or_an_error(data: bytes) -> None:
    try:
        for number, value in iter_fields(memoryview(data)):
            assert number >= 0
            assert isinstance(value, memoryview) or value < 1 << 70
    except (ValueError, IndexError):
        pass
