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

from edge.core.atomic_files import atomic_file, atomic_folder, cache_folder, translate_write_errors
from edge.core.errors import CheckError, InputError
from edge.core.locks import writer_lock
from edge.inference.engine_selection import trust_plan
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.engine_identity import (
    ENGINE_SUFFIX,
    EngineIdentity,
    expected_identity,
    find_mismatches,
    identity_path,
)
from edge.release.weight_check import check_finite
from export.engines.build_source import EngineSource

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class EngineStatus:
    """One engine of a folder: `identity`, and what keeps it from being that (nothing if it fits)."""

    graph: Path
    identity: EngineIdentity
    mismatches: tuple[str, ...]


def check_engines(source: EngineSource, target: BuildTarget, folder: Path) -> list[EngineStatus]:
    """Say of each engine that should be in `folder` whether it fits its graph and the machine.

    Raises:
        InputError: the target's TensorRT is not installed.
    """
    identity = [(graph, expected_identity(graph, target)) for graph in source.graphs]
    return [
        EngineStatus(graph, identity, tuple(find_mismatches(folder, identity)))
        for graph, identity in identity
    ]


def build_engines(
    source: EngineSource,
    target: BuildTarget,
    folder: Path,
    rebuild: bool = False,
    caches: Sequence[Path] = (),
    on_start: Callable[[EngineStatus, float | None], None] = lambda engine, estimate_s: None,
) -> Iterator[tuple[EngineIdentity, bool]]:
    """Compile what is not there, and yield each engine's identity and whether it was built now.

    Engines that fit are kept. The folder appears with the last; until then the older one stands.
    `caches`: timing caches to begin with where the folder has none that is taken; the first that is, is used.
    `on_start` gets an engine about to be built, and the seconds that its last build took here.

    Raises:
        InputError: TensorRT is missing or refuses a graph (named), the folder cannot be written, or
            another build is at it.
        CheckError: an engine does not fit, and `rebuild` is not asked for.
    """
    with writer_lock(folder):
        engines = check_engines(source, target, folder)
        _refuse_misfits(engines, rebuild)
        if not any(engine.mismatches for engine in engines):
            yield from ((_read_identity(folder, engine.identity), False) for engine in engines)
            return
        history = _History()
        with atomic_folder(folder, is_ours=_is_engine_file) as path, translate_write_errors(folder):
            offered = [p.read_bytes() for p in (folder / TIMING_CACHE, *caches) if p.is_file()]
            learnt: bytes | None = None
            done: list[tuple[EngineIdentity, bool]] = []
            for engine in engines:
                if not engine.mismatches:
                    done.append((_copy_engine(folder, path, engine.identity), False))
                    continue
                key = f"{source.name} {engine.graph.name} {target} {engine.identity.version}"
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


def _refuse_misfits(engines: list[EngineStatus], rebuild: bool) -> None:
    misfits = [e for e in engines if e.mismatches and e.mismatches != ("not built",)]
    if misfits and not rebuild:
        first = misfits[0]
        more = f", nor do {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise CheckError(
            f"{first.identity.file} does not fit ({'; '.join(first.mismatches)}){more}; "
            "nothing was changed: --rebuild builds them again, --check lists them"
        )


def _build(
    engine: EngineStatus, target: BuildTarget, caches: Sequence[bytes], folder: Path
) -> tuple[EngineIdentity, bytes | None]:
    started = time.perf_counter()
    with _errors_naming(engine.graph.name):
        check_finite(engine.graph)
        plan = build_plan(engine.graph.read_bytes(), target, caches)
    (folder / engine.identity.file).write_bytes(plan.data)
    digest = hashlib.sha256(plan.data).hexdigest()
    trust_plan(digest)
    built = replace(
        engine.identity,
        version=plan.tensorrt,
        plan_sha256=digest,
        size_bytes=len(plan.data),
        seconds=time.perf_counter() - started,
    )
    return built, plan.timing_cache


def _copy_engine(folder: Path, path: Path, identity: EngineIdentity) -> EngineIdentity:
    """Take an engine that fits, with its identity, over into the new folder."""
    for source in (folder / identity.file, identity_path(folder / identity.file)):
        shutil.copy2(source, path / source.name)
    return _read_identity(path, identity)


def _read_identity(folder: Path, identity: EngineIdentity) -> EngineIdentity:
    found = json.loads(identity_path(folder / identity.file).read_text())
    return replace(identity, **{key: found[key] for key in ("plan_sha256", "size_bytes", "seconds")})


def _is_engine_file(entry: Path) -> bool:
    return entry.name == TIMING_CACHE or entry.name.endswith((ENGINE_SUFFIX, ENGINE_SUFFIX + ".json"))


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
        with suppress(OSError, InputError), atomic_file(self._path) as path:
            path.write_text(json.dumps(self._seconds, indent=1) + "\n")


@contextmanager
def _errors_naming(file: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
