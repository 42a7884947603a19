"""Command options from a TOML file; options on the command line take precedence."""

from __future__ import annotations

from pathlib import Path

import click

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml


def load_config_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Use the keys of a file, named like the options, as the defaults of the command's options.

    Raises:
        InputError: The file is not valid TOML, or has an unknown key or a value of the wrong type.
    """
    if path is None:
        return
    document = read_toml(path, "a TOML file of options")
    if empty := [key for key, value in document.items() if value == ""]:
        raise InputError(f"{path}: {empty[0]} is empty; expected a value: give one, or remove the line")
    options = {_option_key(option): option for option in ctx.command.params if option is not param}
    defaults: dict[str, object] = {}
    for key, value in document.items():
        option = options.get(key.replace("_", "-"))
        if option is None or option.name is None:
            raise InputError(
                f"{path} has an unknown key {key!r}; expected some of {', '.join(sorted(options))}"
            )
        defaults[option.name] = _convert_value(path, key, value, option)
    ctx.default_map = defaults


def _option_key(option: click.Parameter) -> str:
    return max(option.opts, key=len).lstrip("-").replace("_", "-")


def _convert_value(path: Path, key: str, value: object, option: click.Parameter) -> object:
    """Return a value as the command line gives it: as text, which click then parses and checks."""
    is_flag = isinstance(option, click.Option) and option.is_flag
    takes_several = option.nargs == -1 or (isinstance(option, click.Option) and option.multiple)
    if is_flag and isinstance(value, bool):
        return value
    if takes_several and isinstance(value, list) and all(isinstance(i, (str, int, float)) for i in value):
        return [str(item) for item in value]
    if not is_flag and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return [str(value)] if takes_several else str(value)
    expected = "true or false" if is_flag else "text or a number"
    # The value is not shown: it may be a password at the wrong place.
    raise InputError(f"{path}: {key} is of type {type(value).__name__}; expected {expected}")
