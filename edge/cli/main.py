"""Entry point `aerogaze`: a table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

# OpenCV and FFmpeg print to standard error about every damaged file; our own errors are one line each.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import click
from click.shell_completion import CompletionItem

from edge.cli import json_log
from edge.core.errors import TRACEBACK_VARIABLE, CheckError, ClosedPipeError, InputError
from edge.core.foreign_text import printable


@dataclass(frozen=True)
class CommandEntry:
    """A command in the table.

    Attributes:
        section: Heading that the help lists the command under.
        module: Module that defines the command, under the command's name.
        help: Help text in one line.
        extra: Optional dependencies that the command needs.
        function: Name of the command in its module, if Python cannot use the command's own name.
    """

    section: str
    module: str
    help: str
    extra: str | None = None
    function: str | None = None


CLOSED_PIPE_CODE = 141
"""Exit code after the reader of the standard output has ended, as shells report it: 128 + SIGPIPE."""
COMMANDS = {
    "run": CommandEntry("Fly", "edge.cli.run.command", "Compute saliency maps of a video or camera."),
    "doctor": CommandEntry("Fly", "edge.cli.doctor", "Show what this machine can do and what it lacks."),
    "device": CommandEntry(
        "Fly", "jetson.cli.device", "Install bundles on this board and roll them back.", "jetson"
    ),
    "profile": CommandEntry("Measure", "edge.cli.profile", "Measure latency per precision."),
    "evaluate": CommandEntry(
        "Measure", "trainer.cli.evaluate", "Score saliency maps against recorded gaze.", "train"
    ),
    "quality": CommandEntry(
        "Measure", "trainer.cli.quality", "Judge students side by side, by one protocol.", "train"
    ),
    "annotate": CommandEntry("Measure", "trainer.cli.annotate", "Draw boxes around a target, to score maps."),
    "compare": CommandEntry("Measure", "export.cli.compare", "Compare the maps of two graphs.", "export"),
    "sensitivity": CommandEntry(
        "Measure", "export.cli.sensitivity", "Measure what each layer loses in int8.", "export"
    ),
    "demo": CommandEntry("Train", "export.cli.demo", "Run every stage once and write a report.", "export"),
    "train": CommandEntry("Train", "trainer.cli.train", "Distil a student from a recipe.", "train"),
    "label": CommandEntry(
        "Train", "trainer.cli.label", "Write a model's saliency maps for a tree of videos.", "train"
    ),
    "import": CommandEntry(
        "Train",
        "export.cli.import_model",
        "Make a student or a release of a model from elsewhere.",
        "export",
        function="import_model",
    ),
    "export": CommandEntry(
        "Export", "export.cli.export", "Export a student as a release of ONNX graphs.", "export"
    ),
    "calibrate": CommandEntry(
        "Export", "export.cli.calibrate", "Quantize a release or any ONNX graph to int8.", "export"
    ),
    "build": CommandEntry("Export", "export.cli.build", "Build TensorRT engines for a release.", "export"),
    "keys": CommandEntry(
        "Deliver", "jetson.cli.bundle", "Create signing keys and trust documents.", "jetson"
    ),
    "bundle": CommandEntry(
        "Deliver", "jetson.cli.bundle", "Sign a release as one file, or verify one.", "jetson"
    ),
    "flash": CommandEntry("Deliver", "jetson.cli.flash", "Install a bundle on a board over SSH.", "flash"),
    "fleet": CommandEntry(
        "Deliver", "jetson.cli.fleet", "Install a bundle on many boards, ring by ring.", "flash"
    ),
    "wheels": CommandEntry(
        "Deliver", "jetson.cli.wheels", "Download the packages of a board without internet.", "flash"
    ),
}
_DOCTOR = "aerogaze doctor names the package and how to repair it"
_OWN_PACKAGES = {"edge", "export", "calibration", "trainer", "jetson"}


class _LazyGroup(click.Group):
    """Group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        try:
            module = importlib.import_module(entry.module)
        except ModuleNotFoundError as error:
            raise _explain_missing(name, error) from None
        except ImportError as error:
            raise _explain_broken(name, error) from None
        command: click.Command = getattr(module, entry.function or name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            # A command imports its packages when it works, so that its help needs none of them.
            raise _explain_missing(ctx.invoked_subcommand or "", error) from None
        except ImportError as error:
            raise _explain_broken(ctx.invoked_subcommand or "", error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), entry.help)
                        for name, entry in COMMANDS.items()
                        if entry.section == section
                    ]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the options and commands that start with a text, without importing the commands."""
        names = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _explain_missing(name: str, error: ModuleNotFoundError) -> Exception:
    """Return the error that says how to install a package which a command needs."""
    entry = COMMANDS.get(name)
    if entry is None or _is_own(error):
        return error
    remedy = f"pip install 'aerogaze[{entry.extra}]'" if entry.extra else _DOCTOR
    return InputError(f"aerogaze {name} needs {error.name}, which is not installed: {remedy}")


def _explain_broken(name: str, error: ImportError) -> Exception:
    """Return the error for an installed package that cannot be imported."""
    if _is_own(error):
        return error
    if "multiarray" in str(error) or "compiled using NumPy" in str(error):  # the system's OpenCV can be
        return InputError(
            f"aerogaze {name} cannot import OpenCV ({error}): it was built for another version of NumPy. "
            "Install the NumPy that it was built for, for example pip install 'numpy<2'"
        )
    return InputError(f"aerogaze {name} cannot import a package that it needs ({error}): {_DOCTOR}")


def _is_own(error: ImportError) -> bool:
    """Return whether a module of aerogaze itself could not be imported, which is a bug."""
    return (error.name or "").partition(".")[0] in _OWN_PACKAGES


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aerogaze", message="aerogaze %(version)s")
def aerogaze() -> None:
    """Video saliency on drones: distil, quantize, profile, deploy and run.

    \b
    Example:
      aerogaze run synthetic:7 --max-frames 60 --overlay saliency.mp4
    """


def invoke(arguments: Sequence[str]) -> None:
    """Run one command in this process.

    Raises:
        InputError: The input of the command is invalid.
        CheckError: A check of the command failed.
    """
    aerogaze.main(list(arguments), prog_name="aerogaze", standalone_mode=False)


def main() -> NoReturn:
    """Run the command line and exit: code 0 on success, 2 on invalid input, 1 on a failed check.

    It is 141 if the reader of the standard output has ended, as in `aerogaze … | head`.
    """
    code = run_cli(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A run that was stopped by a signal keeps its handlers (edge.cli.stop_signals). Python removes them
        # while it exits; a repeated signal would then kill the process and replace the exit code.
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command, print an error as one line, and return the exit code."""
    json_log.use(False)  # an earlier command of this process may have set it
    try:
        invoke(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except (ClosedPipeError, BrokenPipeError):
        # `| head` has read enough. Python writes what it still has to the standard output while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE_CODE
    except InputError as error:
        return _print_error(str(error), 2)
    except CheckError as error:
        return _print_error(str(error), 1)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "aerogaze"
        return _print_error(f"{error.format_message()} (see {command} --help)", 2)
    except (click.Abort, KeyboardInterrupt):
        return _print_error("interrupted", 130)
    except OSError as error:
        if error.errno is None:
            raise
        path = f"{error.filename}: " if error.filename else ""
        return _print_error(f"{path}{error.strerror}", 2)
    return 0


def _print_error(message: str, code: int) -> int:
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
    text = printable(" ".join(message.split()))
    if json_log.is_used():
        json_log.write_line("error", text)
    else:
        click.echo(f"aerogaze: {text}", err=True)
    return code


if __name__ == "__main__":
    main()
