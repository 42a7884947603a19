"""Delivery of signed bundles to boards: keys, bundles, pushes, slots, and roll-back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jetson.bundle.archive import BundleMetadata, write_bundle
    from jetson.deploy.push import PushOptions, load_bundle, push_bundle
    from jetson.signing.keys import generate_key, load_signing_key
    from jetson.signing.trust import load_trust

__all__ = [
    "BundleMetadata",
    "PushOptions",
    "generate_key",
    "load_bundle",
    "load_signing_key",
    "load_trust",
    "push_bundle",
    "write_bundle",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BundleMetadata": "jetson.bundle.archive",
        "PushOptions": "jetson.deploy.push",
        "generate_key": "jetson.signing.keys",
        "load_bundle": "jetson.deploy.push",
        "load_signing_key": "jetson.signing.keys",
        "load_trust": "jetson.signing.trust",
        "push_bundle": "jetson.deploy.push",
        "write_bundle": "jetson.bundle.archive",
    },
)
