"""Building of TensorRT engines, each with an identity file; engines that fit are kept."""

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


class RefusedGraphError(InputError):
    """A graph that TensorRT cannot build, or whose weights are not finite."""


@dataclass(frozen=True)
class EngineStatus:
    """State of one engine in a folder.

    Attributes:
        graph: The ONNX file of the engine.
        identity: The identity that the engine should have.
        mismatches: Differences from that identity; empty if the engine fits.
    """

    graph: Path
    identity: EngineIdentity
    mismatches: tuple[str, ...]


def check_engines(source: EngineSource, target: BuildTarget, folder: Path) -> list[EngineStatus]:
    """Return, for each graph, whether the folder has an engine that fits the graph and this machine.

    Raises:
        InputError: If the target's TensorRT is not installed.
    """
    identities = [(graph, expected_identity(graph, target)) for graph in source.graphs]
    return [
        EngineStatus(graph, identity, tuple(find_mismatches(folder, identity)))
        for graph, identity in identities
    ]


def build_engines(
    source: EngineSource,
    target: BuildTarget,
    folder: Path,
    rebuild: bool = False,
    caches: Sequence[Path] = (),
    on_start: Callable[[EngineStatus, float | None], None] = lambda engine, estimate_s: None,
    on_refused: Callable[[Path, str], None] | None = None,
) -> Iterator[tuple[EngineIdentity, bool]]:
    """Build the engines that are missing, and yield the identity of each engine and whether it is new.

    Engines that fit are kept. The new folder replaces the old one when all engines are built.

    Args:
        source: The graphs.
        target: The TensorRT and the GPUs to build for.
        folder: Folder of the engines.
        rebuild: Also build engines again that do not fit.
        caches: Timing caches to start from if that of the folder is missing or refused; the first that
            TensorRT accepts is used.
        on_start: Called before each build with the engine and the duration of its last build on this
            machine, in seconds, if known.
        on_refused: Called with a graph that cannot be built and the reason; the others are still
            built. None raises the error.

    Raises:
        InputError: If TensorRT is missing, the folder cannot be written, or another process is building in
            it.
        RefusedGraphError: If a graph cannot be built and `on_refused` is None.
        CheckError: If an engine does not fit and `rebuild` is not set.
    """
    with writer_lock(folder):
        engines = check_engines(source, target, folder)
        _refuse_mismatches(engines, rebuild)
        if not any(engine.mismatches for engine in engines):
            yield from ((_read_identity(folder, engine.identity), False) for engine in engines)
            return
        with atomic_folder(folder, is_ours=_is_engine_file) as path, translate_write_errors(folder):
            initial_caches = [p.read_bytes() for p in (folder / TIMING_CACHE, *caches) if p.is_file()]
            builder = _EngineBuilder(source.name, target, path, initial_caches, on_start)
            results = []
            for engine in engines:
                if not engine.mismatches:
                    results.append((_copy_engine(folder, path, engine.identity), False))
                    continue
                try:
                    results.append((builder.build(engine), True))
                except RefusedGraphError as error:
                    if on_refused is None:
                        raise
                    on_refused(engine.graph, str(error))
            digest = builder.write_timing_cache()
            for index, (identity, is_new) in enumerate(results):
                if is_new:
                    results[index] = replace(identity, timing_cache_sha256=digest), True
                    results[index][0].write(path)
            yield from results


def _refuse_mismatches(engines: list[EngineStatus], rebuild: bool) -> None:
    misfits = [e for e in engines if e.mismatches and e.mismatches != ("not built",)]
    if misfits and not rebuild:
        first = misfits[0]
        others = f", nor do {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise CheckError(
            f"{first.identity.file} does not fit ({'; '.join(first.mismatches)}){others}; "
            "nothing was changed: --rebuild builds them again, --check lists them"
        )


class _EngineBuilder:
    """Builds engines into a new folder; each build continues with the timing cache of the one before."""

    def __init__(
        self,
        source_name: str,
        target: BuildTarget,
        folder: Path,
        initial_caches: Sequence[bytes],
        on_start: Callable[[EngineStatus, float | None], None],
    ) -> None:
        self._source_name, self._target, self._folder = source_name, target, folder
        self._initial_caches, self._on_start = initial_caches, on_start
        self._timing_cache: bytes | None = None
        self._history = _BuildHistory()

    def build(self, engine: EngineStatus) -> EngineIdentity:
        """Build an engine, and return its identity."""
        key = f"{self._source_name} {engine.graph.name} {self._target} {engine.identity.version}"
        self._on_start(engine, self._history.seconds(key))
        caches = [self._timing_cache] if self._timing_cache else self._initial_caches
        started = time.perf_counter()
        with _name_refused_graph(engine.graph.name):
            check_finite(engine.graph)
            plan = build_plan(engine.graph.read_bytes(), self._target, caches)
        self._timing_cache = plan.timing_cache
        (self._folder / engine.identity.file).write_bytes(plan.data)
        digest = hashlib.sha256(plan.data).hexdigest()
        trust_plan(digest)
        identity = replace(
            engine.identity,
            version=plan.tensorrt,
            plan_sha256=digest,
            size_bytes=len(plan.data),
            seconds=time.perf_counter() - started,
        )
        self._history.record(key, identity.seconds)
        return identity

    def write_timing_cache(self) -> str | None:
        """Write the timing cache, and return its hash; None if there is no timing cache."""
        if self._timing_cache is None:
            return None
        (self._folder / TIMING_CACHE).write_bytes(self._timing_cache)
        return hashlib.sha256(self._timing_cache).hexdigest()


def _copy_engine(folder: Path, new_folder: Path, identity: EngineIdentity) -> EngineIdentity:
    """Copy an engine that fits and its identity file into the new folder."""
    for file in (folder / identity.file, identity_path(folder / identity.file)):
        shutil.copy2(file, new_folder / file.name)
    return _read_identity(new_folder, identity)


def _read_identity(folder: Path, identity: EngineIdentity) -> EngineIdentity:
    """Return the expected identity with the values that only the build knows."""
    document = json.loads(identity_path(folder / identity.file).read_text())
    return replace(identity, **{key: document[key] for key in ("plan_sha256", "size_bytes", "seconds")})


def _is_engine_file(entry: Path) -> bool:
    return entry.name == TIMING_CACHE or entry.name.endswith((ENGINE_SUFFIX, ENGINE_SUFFIX + ".json"))


class _BuildHistory:
    """Durations of builds on this machine, in the user's cache folder. Only an estimate depends on them."""

    def __init__(self) -> None:
        self._path = cache_folder() / "builds.json"
        self._seconds: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError):
            document = json.loads(self._path.read_text())
            self._seconds = {str(key): float(value) for key, value in dict(document).items()}

    def seconds(self, key: str) -> float | None:
        """Return the duration of the last build, if known."""
        return self._seconds.get(key)

    def record(self, key: str, seconds: float) -> None:
        """Save the duration of a build. A failure to write is ignored."""
        self._seconds[key] = seconds
        with suppress(OSError, InputError), atomic_file(self._path) as path:
            path.write_text(json.dumps(self._seconds, indent=1) + "\n")


@contextmanager
def _name_refused_graph(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise RefusedGraphError(f"{name}: {error}") from None
