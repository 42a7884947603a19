"""Signed manifest of a bundle: its files, release counter, compatible boards, versions and expiry date."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from edge.core.errors import InputError
from edge.hardware.board import JETSON_MODULES
from edge.release.manifest import RELEASE_NAME
from jetson.bundle.cpio import MAX_MEMBER_BYTES, validate_member_name
from jetson.signing import canonical_json
from jetson.signing.keys import MAX_KEYS, PublicKeyHex

SCHEMA = 1
MAX_FILES = 256
MAX_TOTAL_BYTES = 2 << 30
MAX_COUNTER = 999_999_999
RESERVED_NAMES = ("sw-description", "sw-description.sig", "manifest.json", "signatures.json")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")
_RUNTIME_VERSION = re.compile(
    _VERSION.pattern + r"((a|b|rc)[0-9]{1,6})?(\.post[0-9]{1,6})?(\.dev[0-9]{1,6})?"
)
_SUFFIX = re.compile(r"\d+(?:\.\d+)*(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?")
_SHA256 = re.compile("[0-9a-f]{64}")
_BOARD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class BundleFile:
    """File of a bundle.

    Attributes:
        name: Plain file name.
        sha256: Hash of the content, in hex.
        size_bytes: Size of the content.
        timing_cache: The file is a TensorRT timing cache: it shortens engine builds and is not part of the
            release.
    """

    name: str
    sha256: str
    size_bytes: int
    timing_cache: bool


@dataclass(frozen=True)
class Compatibility:
    """Boards and versions that a bundle may be installed on; an empty field allows all.

    A version stands for all versions that start with it: JetPack 6.2 matches 6.2.1, but not 6.20.
    """

    boards: tuple[str, ...] = ()
    compute_capability: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    tensorrt: tuple[str, ...] = ()


UNRESTRICTED = Compatibility()


@dataclass(frozen=True)
class BundleManifest:
    """The signed content of `manifest.json`. The fields are its keys.

    Attributes:
        name: Name of the release.
        counter: Grows from release to release. A board rejects a counter lower than the highest it has
            marked good.
        over: Exception to that rule: boards whose highest counter is at most this value accept the bundle
            although its own counter is lower. None for no exception.
        compatible: Boards and versions that may install it.
        runtime: Lowest version of aerogaze that can run it.
        expires: Last day, as an ISO date in UTC, on which it may be installed. None for no limit.
        files: All files, sorted by name.
        signers: All keys that signed the bundle, sorted. A signature cannot be added or removed later.
        cms_sha256: Hash of the CMS signature for SWUpdate; None if there is none.
    """

    name: str
    counter: int
    over: int | None
    compatible: Compatibility
    runtime: str
    expires: str | None
    files: tuple[BundleFile, ...]
    signers: tuple[PublicKeyHex, ...]
    cms_sha256: str | None = None

    @property
    def size_bytes(self) -> int:
        """Total size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def id(self) -> str:
        """SHA-256 of the signed bytes: identifies the release."""
        return hashlib.sha256(canonical_json.encode(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the document that is stored and signed."""
        return {"schema": SCHEMA, **asdict(self)}


def parse_manifest(document: Mapping[str, Any]) -> BundleManifest:
    """Parse a manifest and validate each value.

    Raises:
        InputError: The schema is unknown, a key is missing or unknown, or a value is invalid.
    """
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"the bundle's manifest has schema {document.get('schema')!r}; this aerogaze reads schema "
            f"{SCHEMA}: install a newer aerogaze, or bundle the release again"
        )
    expected = {"schema", *(field.name for field in fields(BundleManifest))}
    if unexpected := sorted(expected ^ set(document)):
        raise _manifest_error(f"{unexpected[0]} is missing or unknown")
    over, cms = document["over"], document["cms_sha256"]
    return BundleManifest(
        name=_text(document["name"], RELEASE_NAME, "name"),
        counter=_integer(document["counter"], 1, MAX_COUNTER, "counter"),
        over=None if over is None else _integer(over, 1, MAX_COUNTER, "over"),
        compatible=_compatibility(document["compatible"]),
        runtime=_text(document["runtime"], _RUNTIME_VERSION, "runtime"),
        expires=None if document["expires"] is None else validate_date(document["expires"]),
        files=_files(document["files"]),
        signers=_signers(document["signers"]),
        cms_sha256=None if cms is None else _text(cms, _SHA256, "cms_sha256"),
    )


def _files(value: Any) -> tuple[BundleFile, ...]:
    files = tuple(_file(entry) for entry in _list(value, MAX_FILES, "files"))
    names = [file.name for file in files]
    if not names or names != sorted(set(names)):
        raise _manifest_error("its files are none, not sorted, or listed twice")
    if sum(file.size_bytes for file in files) > MAX_TOTAL_BYTES:
        raise _manifest_error(f"the total size of its files is over {MAX_TOTAL_BYTES} bytes")
    return files


def _signers(value: Any) -> tuple[PublicKeyHex, ...]:
    signers = tuple(_text(signer, _SHA256, "a signer") for signer in _list(value, MAX_KEYS, "signers"))
    if not signers or list(signers) != sorted(set(signers)):
        raise _manifest_error("its signers are none, not sorted, or listed twice")
    return signers


def parse_compatibility(arguments: tuple[str, ...]) -> Compatibility:
    """Parse the values of the option `--compatible`.

    Args:
        arguments: Any of `boards=a,b`, `compute=8.7`, `jetpack=6.1,6.2` and `tensorrt=10.3`.

    Raises:
        InputError: A name is unknown or given twice, a value has another format, or a board is unknown.
    """
    field_names = {
        "boards": "boards",
        "compute": "compute_capability",
        "jetpack": "jetpack",
        "tensorrt": "tensorrt",
    }
    values_by_field: dict[str, list[str]] = {}
    for argument in arguments:
        name, _, values = argument.partition("=")
        if name not in field_names or field_names[name] in values_by_field:
            raise InputError(
                f"--compatible {argument!r}; expected each of {', '.join(field_names)} at most once, "
                "as jetpack=6.1,6.2"
            )
        values_by_field[field_names[name]] = sorted({value.strip() for value in values.split(",")})
    known_boards = [module.board for module in JETSON_MODULES]
    if unknown := sorted(set(values_by_field.get("boards", ())) - set(known_boards)):
        raise InputError(f"--compatible: no board {unknown[0]!r}; expected some of {', '.join(known_boards)}")
    return _compatibility(
        {field.name: values_by_field.get(field.name, []) for field in fields(Compatibility)}
    )


def validate_date(value: Any) -> str:
    """Return the value if it is an ISO date.

    Raises:
        InputError: It is not.
    """
    try:
        if isinstance(value, str) and date.fromisoformat(value).isoformat() == value:
            return value
    except ValueError:
        pass
    raise InputError(f"{value!r} is not a date; expected one as 2027-01-31")


def version_key(version: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return a key that orders versions of aerogaze as PEP 440 does.

    A development version comes before the pre-releases of its version, and these before the version itself:
    0.2.0.dev0, 0.2.0a1, 0.2.0rc1, 0.2.0, 0.2.0.post1. Trailing zeros do not count (0.1 equals 0.1.0), and
    neither does a local part (0.2.0+board equals 0.2.0). A text that is no version comes before all versions.
    """
    numbers = _version_numbers(version)
    while numbers and not numbers[-1]:
        numbers.pop()
    suffix = _SUFFIX.match(version)
    phase, phase_number, post, dev = suffix.groups() if suffix else (None, None, None, None)
    rank = ("a", "b", "rc").index(phase) if phase else -1 if dev and not post else 3
    # A version without ".postN" comes before those with, one without ".devN" after those with.
    key = rank, int(phase_number or 0), int(post) if post else -1, int(dev) if dev else math.inf
    return tuple(numbers), key


def version_matches(version: str, prefix: str) -> bool:
    """Return whether a version starts with the numbers of a shorter one."""
    prefix_numbers = _version_numbers(prefix)
    return _version_numbers(version)[: len(prefix_numbers)] == prefix_numbers


def _version_numbers(version: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match.group().split(".")] if match else []


def _compatibility(value: Any) -> Compatibility:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(Compatibility)}:
        raise _manifest_error("compatible is malformed")
    patterns = {"boards": _BOARD_NAME}
    parsed = {}
    for name, items in value.items():
        texts = tuple(_text(item, patterns.get(name, _VERSION), name) for item in _list(items, 32, name))
        if list(texts) != sorted(set(texts)):
            raise _manifest_error(f"{name} is not sorted, or lists a value twice")
        parsed[name] = texts
    return Compatibility(**parsed)


def _file(value: Any) -> BundleFile:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(BundleFile)}:
        raise _manifest_error("an entry of files is malformed")
    name = validate_member_name(value["name"] if isinstance(value["name"], str) else repr(value["name"]))
    if name in RESERVED_NAMES or not isinstance(value["timing_cache"], bool):
        raise _manifest_error(f"the entry of {name} is malformed")
    return BundleFile(
        name,
        _text(value["sha256"], _SHA256, f"sha256 of {name}"),
        _integer(value["size_bytes"], 0, MAX_MEMBER_BYTES, f"size of {name}"),
        value["timing_cache"],
    )


def _list(value: Any, max_length: int, label: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > max_length:
        raise _manifest_error(f"{label} is not a list of at most {max_length}")
    return list(value)


def _text(value: Any, pattern: re.Pattern[str], label: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _manifest_error(f"{label} cannot be {value!r:.80}")
    return value


def _integer(value: Any, minimum: int, maximum: int, label: str) -> int:
    # Not isinstance: bool is a subclass of int.
    if type(value) is not int or not minimum <= value <= maximum:
        raise _manifest_error(
            f"{label} is {value!r:.40}, expected a whole number from {minimum} to {maximum}"
        )
    return value


def _manifest_error(problem: str) -> InputError:
    return InputError(f"the bundle's manifest cannot be used: {problem}; bundle the release again")
