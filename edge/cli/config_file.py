"""A command's options from a TOML file; the command line wins."""

from __future__ import annotations

from pathlib import Path

import click

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml


def load_config_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Take a file's keys as defaults of the command's options, each named as on the command line.

    Raises:
        InputError: the file cannot be read as TOML, or has a key or a kind of value that no option has.
    """
    if path is None:
        return
    document = read_toml(path, "a TOML file of options")
    if empty := [key for key, value in document.items() if value == ""]:
        raise InputError(f"{path}: {empty[0]} is empty; expected a value, or no such line")
    known = {_key(option): option for option in ctx.command.params if option is not param}
    defaults: dict[str, object] = {}
    for key, value in document.items():
        option = known.get(key.replace("_", "-"))
        if option is None or option.name is None:
            raise InputError(
                f"{path} has an unknown key {key!r}; expected some of {', '.join(sorted(known))}"
            )
        defaults[option.name] = _as_typed(path, key, value, option)
    ctx.default_map = defaults


def _key(option: click.Parameter) -> str:
    return max(option.opts, key=len).lstrip("-").replace("_", "-")


def _as_typed(path: Path, key: str, value: object, option: click.Parameter) -> object:
    """Return a value as the command line would give it: text, which the option then reads and checks."""
    is_flag = isinstance(option, click.Option) and option.is_flag
    if is_flag and isinstance(value, bool):
        return value
    if not is_flag and isinstance(option, click.Option) and option.multiple and isinstance(value, list):
        return [str(item) for item in value]
    if not is_flag and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    expected = "true or false" if is_flag else "text or a number"
    raise InputError(f"{path}: {key} is {value!r}; expected {expected}")
