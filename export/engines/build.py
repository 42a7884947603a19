"""Engines: graphs compiled by TensorRT, each with its identity; those that fit are kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge.core.atomic_files import cache_folder, writing, written_file, written_folder
from edge.core.errors import CheckError, InputError
from edge.core.locks import only_writer
from edge.inference.engine_selection import vouch
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import Target
from edge.inference.tensorrt.engine_identity import SUFFIX, Identity, differences, expected, identity_path
from edge.release.weight_check import check_finite
from export.engines.build_source import Buildable

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Engine:
    """One engine of a folder: `wanted`, and what keeps it from being that (nothing if it fits)."""

    graph: Path
    wanted: Identity
    differs: tuple[str, ...]


def survey(source: Buildable, target: Target, folder: Path) -> list[Engine]:
    """Say of each engine that should be in `folder` whether it fits its graph and the machine.

    Raises:
        InputError: the target's TensorRT is not installed.
    """
    wanted = [(graph, expected(graph, target)) for graph in source.graphs]
    return [Engine(graph, identity, tuple(differences(folder, identity))) for graph, identity in wanted]


def build_engines(
    source: Buildable,
    target: Target,
    folder: Path,
    rebuild: bool = False,
    caches: Sequence[Path] = (),
    on_start: Callable[[Engine, float | None], None] = lambda engine, estimate_s: None,
) -> Iterator[tuple[Identity, bool]]:
    """Compile what is not there, and yield each engine's identity and whether it was built now.

    Engines that fit are kept. The folder appears with the last; until then the older one stands.
    `caches`: timing caches to begin with where the folder has none that is taken; the first that is, is used.
    `on_start` gets an engine about to be built, and the seconds that its last build took here.

    Raises:
        InputError: TensorRT is missing or refuses a graph (named), the folder cannot be written, or
            another build is at it.
        CheckError: an engine does not fit, and `rebuild` is not asked for.
    """
    with only_writer(folder):
        engines = survey(source, target, folder)
        _refuse_misfits(engines, rebuild)
        if not any(engine.differs for engine in engines):
            yield from ((_read(folder, engine.wanted), False) for engine in engines)
            return
        history = _History()
        with written_folder(folder, ours=_ours) as path, writing(folder):
            offered = [p.read_bytes() for p in (folder / TIMING_CACHE, *caches) if p.is_file()]
            learnt: bytes | None = None
            done: list[tuple[Identity, bool]] = []
            for engine in engines:
                if not engine.differs:
                    done.append((_kept(folder, path, engine.wanted), False))
                    continue
                key = f"{source.name} {engine.graph.name} {target} {engine.wanted.version}"
                on_start(engine, history.seconds(key))
                built, learnt = _build(engine, target, [learnt] if learnt else offered, path)
                history.note(key, built.seconds)
                done.append((built, True))
            if learnt is not None:
                (path / TIMING_CACHE).write_bytes(learnt)
                digest = hashlib.sha256(learnt).hexdigest()
                done = [(replace(i, timing_cache_sha256=digest) if new else i, new) for i, new in done]
            for identity, new in done:
                if new:
                    identity.write(path)
            yield from done


def _refuse_misfits(engines: list[Engine], rebuild: bool) -> None:
    misfits = [e for e in engines if e.differs and e.differs != ("not built",)]
    if misfits and not rebuild:
        first = misfits[0]
        more = f", nor do {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise CheckError(
            f"{first.wanted.file} does not fit ({'; '.join(first.differs)}){more}; "
            "nothing was changed: --rebuild builds them again, --check lists them"
        )


def _build(
    engine: Engine, target: Target, caches: Sequence[bytes], folder: Path
) -> tuple[Identity, bytes | None]:
    started = time.perf_counter()
    with _named(engine.graph.name):
        check_finite(engine.graph)
        plan = build_plan(engine.graph.read_bytes(), target, caches)
    (folder / engine.wanted.file).write_bytes(plan.data)
    digest = hashlib.sha256(plan.data).hexdigest()
    vouch(digest)
    built = replace(
        engine.wanted,
        version=plan.tensorrt,
        plan_sha256=digest,
        size_bytes=len(plan.data),
        seconds=time.perf_counter() - started,
    )
    return built, plan.timing_cache


def _kept(folder: Path, path: Path, wanted: Identity) -> Identity:
    """Take an engine that fits, with its identity, over into the new folder."""
    for source in (folder / wanted.file, identity_path(folder / wanted.file)):
        shutil.copy2(source, path / source.name)
    return _read(path, wanted)


def _read(folder: Path, wanted: Identity) -> Identity:
    found = json.loads(identity_path(folder / wanted.file).read_text())
    return replace(wanted, **{key: found[key] for key in ("plan_sha256", "size_bytes", "seconds")})


def _ours(entry: Path) -> bool:
    return entry.name == TIMING_CACHE or entry.name.endswith((SUFFIX, SUFFIX + ".json"))


class _History:
    """How long builds took on this machine, in the user's cache folder. To lose it costs an estimate."""

    def __init__(self) -> None:
        self._path = cache_folder() / "builds.json"
        self._seconds: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError):
            found = json.loads(self._path.read_text())
            self._seconds = {str(key): float(value) for key, value in dict(found).items()}

    def seconds(self, key: str) -> float | None:
        return self._seconds.get(key)

    def note(self, key: str, seconds: float) -> None:
        self._seconds[key] = seconds
        with suppress(OSError, InputError), written_file(self._path) as path:
            path.write_text(json.dumps(self._seconds, indent=1) + "\n")


@contextmanager
def _named(file: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
