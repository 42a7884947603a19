"""What a bundle says of itself, signed: files, release counter, and where and how long it may fly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from edge.core.errors import InputError
from edge.hardware.board import JETSON_MODULES
from jetson.bundle.cpio import MAX_MEMBER_BYTES, validate_member_name
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import MAX_KEYS, PublicKeyHex

SCHEMA = 1
MAX_FILES = 256
MAX_TOTAL_BYTES = 2 << 30
MAX_COUNTER = 999_999_999
RESERVED_NAMES = ("sw-description", "sw-description.sig", "manifest.json", "signatures.json")
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")
_HEX = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class BundleFile:
    """A file of the bundle. A timing cache is no part of the release: it only makes builds shorter."""

    name: str
    sha256: str
    size_bytes: int
    timing_cache: bool


@dataclass(frozen=True)
class Compatibility:
    """Where the bundle may fly; nothing in a field means anywhere.

    Versions stand for all that start with them: JetPack 6.2 for 6.2.1 too, not for 6.20.
    """

    boards: tuple[str, ...] = ()
    compute_capability: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    tensorrt: tuple[str, ...] = ()


UNRESTRICTED = Compatibility()


@dataclass(frozen=True)
class BundleManifest:
    """What is signed.

    `counter` grows from release to release; a board takes none that is lower than it has flown, but
    `over` lets this one go back onto boards that have flown at most that counter. `expires` is an ISO
    date in UTC: the bundle may be installed until that day ends. `runtime` is the least version of
    aerogaze. `signers` are the keys whose signatures the bundle carries, all of them; `cms_sha256` is the
    hash of the signature that SWUpdate itself asks for, if there is one.
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
        """Size of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def id(self) -> str:
        """SHA-256 of what is signed: tells this release from any other."""
        return hashlib.sha256(canonical.encode(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"schema": SCHEMA, **asdict(self)}


def parse_manifest(document: Mapping[str, Any]) -> BundleManifest:
    """Read a manifest and check each of its values.

    Raises:
        InputError: an unknown schema, or a value that is not what it should be.
    """
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"the bundle's manifest has schema {document.get('schema')!r}; this aerogaze reads schema "
            f"{SCHEMA}: install a newer aerogaze, or bundle the release again"
        )
    expected = {"schema", *(field.name for field in fields(BundleManifest))}
    if odd := sorted(expected ^ set(document)):
        raise _bad(f"{odd[0]} is missing or unknown")
    files = tuple(_file(entry) for entry in _list(document["files"], MAX_FILES, "files"))
    names = [file.name for file in files]
    if not names or names != sorted(set(names)):
        raise _bad("its files are none, out of order, or twice there")
    if sum(file.size_bytes for file in files) > MAX_TOTAL_BYTES:
        raise _bad(f"its files are larger than {MAX_TOTAL_BYTES} bytes together")
    over = document["over"]
    given = _list(document["signers"], MAX_KEYS, "signers")
    signers = tuple(_text(signer, _HEX, "a signer") for signer in given)
    cms = document["cms_sha256"]
    if not signers or list(signers) != sorted(set(signers)):
        raise _bad("its signers are none, out of order, or twice there")
    return BundleManifest(
        name=_text(document["name"], _NAME, "name"),
        counter=_whole(document["counter"], 1, MAX_COUNTER, "counter"),
        over=None if over is None else _whole(over, 1, MAX_COUNTER, "over"),
        compatible=_compatible(document["compatible"]),
        runtime=_text(document["runtime"], _VERSION, "runtime"),
        expires=None if document["expires"] is None else validate_date(document["expires"]),
        files=files,
        signers=signers,
        cms_sha256=None if cms is None else _text(cms, _HEX, "cms_sha256"),
    )


def parse_compatibility(words: tuple[str, ...]) -> Compatibility:
    """Read `boards=a,b`, `compute=8.7`, `jetpack=6.1,6.2` and `tensorrt=10.3`, as the command takes them.

    Raises:
        InputError: another name, one twice, a value of another form, or a board that is not known.
    """
    names = {
        "boards": "boards",
        "compute": "compute_capability",
        "jetpack": "jetpack",
        "tensorrt": "tensorrt",
    }
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in names or names[name] in found:
            raise InputError(
                f"--compatible {word!r}; expected each of {', '.join(names)} once, as jetpack=6.1,6.2"
            )
        found[names[name]] = sorted({value.strip() for value in values.split(",")})
    known = [module.board for module in JETSON_MODULES]
    if strange := sorted(set(found.get("boards", ())) - set(known)):
        raise InputError(f"--compatible: no board {strange[0]!r}; expected some of {', '.join(known)}")
    return _compatible({field.name: found.get(field.name, []) for field in fields(Compatibility)})


def validate_date(value: Any) -> str:
    """Return an ISO date.

    Raises:
        InputError: it is none.
    """
    try:
        if isinstance(value, str) and date.fromisoformat(value).isoformat() == value:
            return value
    except ValueError:
        pass
    raise InputError(f"{value!r} is no day; expected one as 2027-01-31")


def version_key(version: str) -> tuple[int, ...]:
    """Return a version's numbers, for comparing: 0.1 is 0.1.0; what follows another character is left out."""
    numbers = _numbers(version)
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def version_matches(version: str, prefix: str) -> bool:
    """Say whether a version is one of those that a shorter one stands for."""
    wanted = _numbers(prefix)
    return _numbers(version)[: len(wanted)] == wanted


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match.group().split(".")] if match else []


def _compatible(value: Any) -> Compatibility:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(Compatibility)}:
        raise _bad("compatible is malformed")
    patterns = {"boards": _WORD}
    read = {}
    for name, items in value.items():
        given = _list(items, 32, name)
        texts = tuple(_text(item, patterns.get(name, _VERSION), name) for item in given)
        if list(texts) != sorted(set(texts)):
            raise _bad(f"{name} is out of order, or has something twice")
        read[name] = texts
    return Compatibility(**read)


def _file(value: Any) -> BundleFile:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(BundleFile)}:
        raise _bad("an entry of files is malformed")
    name = validate_member_name(value["name"] if isinstance(value["name"], str) else repr(value["name"]))
    if name in RESERVED_NAMES or not isinstance(value["timing_cache"], bool):
        raise _bad(f"the entry of {name} is malformed")
    return BundleFile(
        name,
        _text(value["sha256"], _HEX, f"sha256 of {name}"),
        _whole(value["size_bytes"], 0, MAX_MEMBER_BYTES, f"size of {name}"),
        value["timing_cache"],
    )


def _list(value: Any, most: int, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise _bad(f"{what} is no list of at most {most}")
    return list(value)


def _text(value: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _bad(f"{what} cannot be {value!r:.80}")
    return value


def _whole(value: Any, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _bad(f"{what} is {value!r:.40}, expected a whole number from {least} to {most}")
    return value


def _bad(what: str) -> InputError:
    return InputError(f"the bundle's manifest cannot be used: {what}; bundle the release again")
