"""The folder of a release: graphs per precision, a golden set, and `release.json`, which describes them.

`release.json` contains all that the stages need. Nothing is inferred from file names.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from edge.core.atomic_files import atomic_file, sha256
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json
from edge.metrics.score_calibration import ScoreCalibration
from edge.preprocessing.raw_frame import PIXEL_FORMATS, RawFrameSpec
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.release.json_values import parse_choice, parse_integer, parse_number, parse_optional, parse_text
from edge.release.release import (
    FORMS,
    GOLDEN_FILE,
    PRECISIONS,
    ClipSpec,
    Graph,
    Release,
    StateSpec,
    TargetEngine,
    Verification,
)

SCHEMA = 1
RELEASE_MANIFEST = "release.json"
DEFAULT_RELEASE = "skd-64-motion"
MAX_NAME_LENGTH = 100
RELEASE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{MAX_NAME_LENGTH - 1}}}")
"""Names that a release may get, so that a bundle can carry it."""
MAX_LAG_S = 2.0
MAX_BLUR = 0.25
SHIPPED_RELEASES = Path(__file__).parent / "shipped"


def save_release(release: Release) -> None:
    """Write `release.json` to the release's folder, with hash and size of every file there."""
    document = dataclasses.asdict(release)
    del document["folder"]
    preprocessing = document["preprocessing"]
    # Optional keys are written only if they are used (docs/reference/release.md).
    used = [(document, key) for key in ("raw_frame", "clip", "score", "map_size")] + [
        (preprocessing, "alignment")
    ]
    for table, optional in used:
        if table[optional] is None:
            del table[optional]
    if not document["blur"]:
        del document["blur"]
    for state in document["states"]:
        if not state["fixed_lag"]:
            del state["fixed_lag"]
    release_files = {
        path.name: {"sha256": sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(release.folder.iterdir())
        if path.name != RELEASE_MANIFEST
    }
    document = {"schema": SCHEMA, **document, "files": release_files}
    (release.folder / RELEASE_MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def save_score(release: Release, score: ScoreCalibration) -> Release:
    """Write a calibration of the score into `release.json`; its other keys and the files stay as they are.

    Raises:
        InputError: The folder cannot be written.
    """
    path = release.folder / RELEASE_MANIFEST
    document = json.loads(path.read_text())
    files = document.pop("files")
    document |= {"score": dataclasses.asdict(score), "files": files}
    with atomic_file(path) as file:
        file.write_text(json.dumps(document, indent=1) + "\n")
    return dataclasses.replace(release, score=score)


def locate_release(name: str | Path | None) -> Path:
    """Return the folder of a release.

    Args:
        name: A folder, the name of a shipped release, or None for the default release.

    Raises:
        InputError: `name` is neither a folder nor a shipped release.
    """
    if name is None:  # not a folder of this name in the working directory
        return SHIPPED_RELEASES / DEFAULT_RELEASE
    if Path(name).is_dir():
        return Path(name)
    shipped = (
        sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir())
        if SHIPPED_RELEASES.is_dir()
        else []
    )
    if str(name) in shipped:
        return SHIPPED_RELEASES / name
    raise InputError(
        f"no release {str(name)!r}; expected a folder with {RELEASE_MANIFEST} "
        f"or one of the shipped releases: {', '.join(shipped)}"
    )


def release_files(release: Release) -> list[str]:
    """Return the names of the files that belong to a loaded release; its folder may contain others."""
    return [RELEASE_MANIFEST, *json.loads((release.folder / RELEASE_MANIFEST).read_text())["files"]]


def load_release(name: str | Path | None = None) -> Release:
    """Load a release and check that all its files are present and unchanged.

    Args:
        name: As for `locate_release`.

    Raises:
        InputError: There is no such release, its manifest is malformed or of another schema, or a file is
            missing or changed.
    """
    folder = locate_release(name)
    manifest = folder / RELEASE_MANIFEST
    document = _read_document(folder)
    try:
        release = _parse_release(folder, document)
        hashes = {
            str(file): (str(entry["sha256"]), int(entry["size_bytes"]))
            for file, entry in document["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
        raise InputError(f"{manifest} {problem}: export the release again") from None
    for required in (GOLDEN_FILE, *(graph.file for graph in release.graphs)):
        if required not in hashes:
            raise InputError(f"{manifest} lists no hash of {required}: export the release again")
    for file, (digest, size) in hashes.items():
        _check_file(folder, file, digest, size)
    return release


def _read_document(folder: Path) -> dict[str, Any]:
    """Return the content of `release.json` in a folder, after checking its schema."""
    manifest = folder / RELEASE_MANIFEST
    try:
        document = parse_json(manifest.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a release: it has no {RELEASE_MANIFEST}; make one with aerogaze export"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{manifest} cannot be read as JSON ({error}): export the release again") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA or not isinstance(document, dict):
        raise InputError(
            f"{manifest} has schema {schema!r}; this aerogaze reads schema {SCHEMA}: "
            "use the aerogaze that wrote it, or export again"
        )
    return document


def _check_file(folder: Path, name: str, digest: str, size: int) -> None:
    if Path(name).name != name:
        raise InputError(f"{folder / RELEASE_MANIFEST} lists {name!r}; expected names of files in its folder")
    path = folder / name
    if not path.is_file():
        raise InputError(f"release {folder} lacks {name}: copy it whole, or export again")
    if path.stat().st_size != size or sha256(path) != digest:
        raise InputError(
            f"release {folder}: {name} is not the file that was released (its hash differs): "
            "copy it again, or export again"
        )


def _parse_release(folder: Path, document: Mapping[str, Any]) -> Release:
    graphs = tuple(map(_parse_graph, document["graphs"]))
    if not graphs:
        raise ValueError("graphs is empty")
    inputs = tuple(map(parse_text, document["inputs"]))
    if not inputs:
        raise ValueError("inputs is empty")
    return Release(
        folder=folder,
        name=parse_text(document["name"]),
        student=dict(document["student"]),
        preprocessing=_parse_preprocessing(document["preprocessing"]),
        inputs=inputs,
        output=parse_text(document["output"]),
        delay_frames=parse_integer(document["delay_frames"]),
        preroll=parse_integer(document["preroll"]),
        states=tuple(map(_parse_state, document["states"])),
        graphs=graphs,
        trained=dict(document["trained"]),
        calibrated=parse_optional(document["calibrated"], dict),
        raw_frame=parse_optional(document.get("raw_frame"), _parse_raw_frame),
        clip=parse_optional(document.get("clip"), _parse_clip),
        blur=_parse_blur(document.get("blur", 0.0)),
        score=parse_optional(document.get("score"), _parse_score),
        map_size=parse_optional(document.get("map_size"), _parse_map_size),
    )


def _parse_state(document: Mapping[str, Any]) -> StateSpec:
    return StateSpec(
        input=parse_text(document["input"]),
        output=parse_text(document["output"]),
        shape=tuple(parse_integer(side, minimum=1) for side in document["shape"]),
        start=parse_number(document["start"]),
        lag_s=_parse_lag(document["lag_s"]),
        fixed_lag=parse_integer(document.get("fixed_lag", 0)),
    )


def _parse_graph(document: Mapping[str, Any]) -> Graph:
    return Graph(
        file=parse_text(document["file"]),
        form=parse_choice(document["form"], FORMS),
        precision=parse_choice(document["precision"], PRECISIONS),
        engine=parse_choice(document["engine"], get_args(TargetEngine)),
        batch=parse_optional(document["batch"], lambda batch: parse_integer(batch, minimum=1)),
        verified=parse_optional(document["verified"], _parse_verification),
    )


def _parse_verification(document: Mapping[str, Any]) -> Verification:
    values = {field.name: document[field.name] for field in dataclasses.fields(Verification)}
    frames = parse_integer(values.pop("frames"), minimum=1)
    return Verification(frames, **{name: parse_number(value) for name, value in values.items()})


def _parse_preprocessing(document: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        width=parse_integer(document["width"], minimum=1),
        height=parse_integer(document["height"], minimum=1),
        scale=parse_number(document["scale"]),
        offset=parse_number(document["offset"]),
        alignment=parse_optional(document.get("alignment"), _parse_alignment),
    )


def _parse_alignment(document: Mapping[str, Any]) -> Alignment:
    lag_s = _parse_lag(document["lag_s"])
    width, height = (parse_integer(document[side], minimum=16) for side in ("width", "height"))
    return Alignment(lag_s, width, height)


def _parse_raw_frame(document: Mapping[str, Any]) -> RawFrameSpec:
    width, height = (parse_integer(document[side], minimum=1) for side in ("width", "height"))
    try:
        return RawFrameSpec(width, height, parse_choice(document["format"], PIXEL_FORMATS))
    except InputError as error:
        raise ValueError(str(error)) from None


def _parse_clip(document: Mapping[str, Any]) -> ClipSpec:
    frames = parse_integer(document["frames"], minimum=1)
    return ClipSpec(frames, parse_choice(document["maps"], (1, frames)))


def _parse_map_size(value: Any) -> tuple[int, int]:
    width, height = (parse_integer(side, minimum=1) for side in value)
    return width, height


def _parse_lag(value: Any) -> float:
    if not 0 <= parse_number(value) <= MAX_LAG_S:
        raise ValueError(f"a lag of {value} s; expected 0 to {MAX_LAG_S}")
    return float(value)


def _parse_score(document: Mapping[str, Any]) -> ScoreCalibration:
    score = ScoreCalibration(
        share=parse_number(document["share"]),
        focus=parse_number(document["focus"]),
        offset=parse_number(document["offset"]),
        threshold=parse_number(document["threshold"]),
    )
    if not 0 <= score.threshold <= 1:
        raise ValueError(f"a threshold of {score.threshold}; expected 0 to 1")
    return score


def _parse_blur(value: Any) -> float:
    if not 0 <= parse_number(value) <= MAX_BLUR:
        raise ValueError(f"a blur of {value} widths; expected 0 to {MAX_BLUR}")
    return float(value)
