"""Files that version 0.1.0 wrote are still read: board state, trust, manifest, shards, profile, config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.profiler.report.compare import compare_documents
from edge.profiler.report.documents import read_document
from jetson.bundle.archive import BUNDLE_PURPOSE
from jetson.bundle.manifest import parse_manifest
from jetson.device.slot_state import load_state
from jetson.signing.keys import verify_signatures
from jetson.signing.trust import parse_trust
from tests.conftest import Outcome
from trainer.data.map_shards import ShardedMaps, read_plan
from trainer.recipes.loader import load_recipe
from trainer.recipes.skd import SkdRecipe

OLD = Path(__file__).parent / "version_0_1"


def test_state_of_a_board_is_read_with_its_slot_and_history() -> None:
    state = load_state(OLD / "board")
    assert state.current_slot is not None
    assert (state.current_slot.release, state.current_slot.precision) == ("skd-32", "int8")
    assert [event["event"] for event in state.history] == ["install"]
    assert state.previous is None
    assert not state.trial


def test_signed_manifest_of_a_slot_has_the_same_identity_and_a_valid_signature() -> None:
    slot = OLD / "board" / "slots" / "a"
    data = (slot / "manifest.json").read_bytes()
    manifest = parse_manifest(json.loads(data))
    state = load_state(OLD / "board")
    assert state.current_slot is not None
    assert manifest.id == state.current_slot.id
    signatures = json.loads((slot / "signatures.json").read_text())
    trust = parse_trust(json.loads((OLD / "board" / "trust.json").read_text()), "trust.json")
    verify_signatures(signatures, BUNDLE_PURPOSE, data, "manifest.json")
    trust.require_threshold(tuple(signatures), "manifest.json")


def test_shards_of_label_give_their_maps() -> None:
    plan = read_plan(OLD / "shards")
    assert (plan.model, plan.dataset, plan.width, plan.height, plan.stride) == ("skd-32", "videos", 64, 64, 5)
    maps = ShardedMaps(OLD / "shards")
    (clip,) = maps.clips
    assert maps.frames(clip).tolist() == [0, 5, 10, 15, 20]
    saliency = maps.map(clip, 10)
    assert saliency.shape == (64, 64)
    assert np.isfinite(saliency).all()
    assert saliency.max() > 0


def test_profile_is_compared_with_itself_without_a_difference() -> None:
    document = read_document(OLD / "latency.json")
    comparisons = compare_documents(document, document)
    assert {row["name"] for row in comparisons} == {"fp32", "fp16", "int8"}
    assert all(row["ratio"] == 1 for row in comparisons)


def test_recipe_of_a_run_is_the_recipe_of_today() -> None:
    stored = json.loads((OLD / "recipe.json").read_text())
    recipe = SkdRecipe.model_validate(stored)
    changed = load_recipe("demo", {"network.steps": "2000"})
    assert recipe == changed


def test_config_file_of_run_is_accepted(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("run", "--config", OLD / "run.toml")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 5
