"""The command `aerogaze`: a table of stages, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

# OpenCV and FFmpeg speak on standard error about every odd file; we say it in one line ourselves.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import click

from edge.core.errors import CheckError, InputError


@dataclass(frozen=True)
class CommandEntry:
    """Where a command lives, what it does in a line, and the extra that installs what it needs."""

    module: str
    help: str
    extra: str | None = None


COMMANDS = {
    "demo": CommandEntry(
        "export.cli.demo", "Train, export, measure and run, with a report to look at.", "export"
    ),
    "train": CommandEntry("trainer.cli.train", "Distil a student from a recipe.", "train"),
    "label": CommandEntry("trainer.cli.label", "Write a model's maps of any tree of video.", "train"),
    "evaluate": CommandEntry("trainer.cli.evaluate", "Score maps against where viewers looked.", "train"),
    "export": CommandEntry(
        "export.cli.export", "Make a release from a student: graphs per precision.", "export"
    ),
    "calibrate": CommandEntry("export.cli.calibrate", "Make int8 graphs of a release or any ONNX.", "export"),
    "sensitivity": CommandEntry("export.cli.sensitivity", "Say what each layer loses in int8.", "export"),
    "build": CommandEntry("export.cli.build", "Compile a release's graphs with TensorRT.", "export"),
    "compare": CommandEntry("export.cli.compare", "Say how far apart two graphs' maps are.", "export"),
    "profile": CommandEntry("edge.cli.profile", "Measure latency per precision."),
    "run": CommandEntry("edge.cli.run", "Turn a video into saliency maps."),
    "keys": CommandEntry("jetson.cli.bundle", "Make signing keys, and say which are trusted.", "jetson"),
    "bundle": CommandEntry("jetson.cli.bundle", "Sign a release as one file, or check one.", "jetson"),
    "flash": CommandEntry("jetson.cli.flash", "Put a bundle onto a board over SSH.", "flash"),
    "wheels": CommandEntry(
        "jetson.cli.wheels", "Gather a board's runtime, for boards without internet.", "flash"
    ),
    "fleet": CommandEntry("jetson.cli.fleet", "Put a bundle onto many boards, ring after ring.", "flash"),
    "device": CommandEntry(
        "jetson.cli.device", "Install bundles on this board, and take them back.", "jetson"
    ),
}


class _LazyGroup(click.Group):
    """Lists the stages without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        stage = COMMANDS.get(name)
        if stage is None:
            return None
        try:
            module = importlib.import_module(stage.module)
        except ModuleNotFoundError as error:
            if stage.extra is None or (error.name or "").split(".")[0] in {
                "edge",
                "export",
                "calibration",
                "trainer",
                "jetson",
            }:
                raise
            raise InputError(
                f"aerogaze {name} needs {error.name}, which is not installed: "
                f"pip install 'aerogaze[{stage.extra}]'"
            ) from None
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, stage.help) for name, stage in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aerogaze", message="aerogaze %(version)s")
def aerogaze() -> None:
    """Video saliency on a drone: distil, quantise, profile, run.

    \b
    Example:
      aerogaze run clip.mp4 --overlay saliency.mp4
    """


def invoke(arguments: Sequence[str]) -> None:
    """Run one command in this process, as a user would type it.

    Raises:
        InputError, CheckError: as the command does.
    """
    aerogaze.main(list(arguments), prog_name="aerogaze", standalone_mode=False)


def main() -> NoReturn:
    """Run the command line: exit code 0 on success, 2 on bad input, 1 on a failed check."""
    code = run_cli(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as of a run that was asked to end
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)  # asked twice: Python's own end would die of it
    sys.exit(code)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command, print its error in one line, and return the exit code."""
    try:
        invoke(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except InputError as error:
        return _say(str(error), 2)
    except CheckError as error:
        return _say(str(error), 1)
    except click.UsageError as error:
        context = error.ctx.command_path if error.ctx else "aerogaze"
        return _say(f"{error.format_message()} ({context} --help shows the use)", 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror}", 2)
    return 0


def _say(message: str, code: int) -> int:
    click.echo(f"aerogaze: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
