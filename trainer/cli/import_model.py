"""`aerogaze import`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from edge.cli.console import print_next_step
from edge.cli.options import FILE
from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from edge.core.frames import parse_size

NOT_STATED = "not stated"
"""Licence and source of a model whose user said nothing about them."""
MAX_SIDE = 4096


@click.command(
    name="import",
    epilog="Example: aerogaze import d123m_rc4_rc1T.pth --kind tinyhd --out tinyhd-m.safetensors",
)
@click.argument("model", type=FILE)
@click.option(
    "--kind",
    type=click.Choice(["tinyhd"]),
    required=True,
    help="Network that the file holds: tinyhd is a checkpoint of TinyHD's authors.",
)
@click.option("--out", type=FILE, required=True, help="Write the student to this .safetensors file.")
@click.option("--size", metavar="WxH", default="256x192", show_default=True, help="Size of the frames.")
@click.option("--licence", metavar="NAME", default=NOT_STATED, help="Licence of the model, for its card.")
@click.option("--source", metavar="URL", default=NOT_STATED, help="Where the model is from, for its card.")
@click.option(
    "--d1-last", is_flag=True, help="The checkpoint mixes the maps of D1 last, as d1d2d3_M_lt does."
)
def import_model(
    model: Path, kind: str, out: Path, size: str, licence: str, source: str, d1_last: bool
) -> None:
    """Make a student of MODEL, a file with the weights of a network that was trained elsewhere.

    Variant, channel reduction and decoders are read from the file. Only tensors are read: code in the file
    is never run. The student records the hash of the file, and licence and source as stated.
    """
    from trainer.models.published.tinyhd_checkpoint import load_tinyhd_checkpoint  # imports torch
    from trainer.models.student import Student, parameter_count

    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # fails now, not after the work, if the file cannot be written
    width, height = parse_size(size, "--size", 32, MAX_SIDE)
    settings, network = load_tinyhd_checkpoint(model, height, width, d1_last)
    card = {
        "kind": kind,
        "file": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "licence": licence,
        "source": source,
        "d1_last": d1_last,
        "preprocessing": vars(settings.preprocessing()),
    }
    Student(out.stem, settings, network, {"imported": card}).save(out)
    print(
        f"{out.stem}: TinyHD-{settings.variant}, rc {settings.rc}, decoders {', '.join(settings.decoders)}, "
        f"{parameter_count(network):,} parameters; licence: {licence}; wrote {out}"
    )
    print_next_step(f"aerogaze export {out} --frames SOURCE --out RELEASE")
