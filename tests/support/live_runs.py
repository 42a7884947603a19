"""Live runs as processes of their own: the command, and what it occupies."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from edge.simulation.world import World

FPS, WIDTH, HEIGHT = 5, 320, 192


def write_long_clip(path: Path, seconds: float) -> Path:
    """Write a video of a low frame rate that repeats the same two seconds; return its path."""
    world = World(5, WIDTH, HEIGHT, FPS)
    images = [world.frame(index).image for index in range(2 * FPS)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for index in range(round(seconds * FPS)):
        writer.write(images[index % len(images)])
    writer.release()
    return path


def start_run(log: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start `aerogaze run`, which writes its log to a file and its summary to the standard output."""
    command = [sys.executable, "-m", "edge.cli.main", "run", *map(str, arguments)]
    with log.open("a") as stderr:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


@dataclass(frozen=True)
class Resources:
    """What a process occupies.

    Attributes:
        resident_mb: Resident memory in MB.
        threads: Number of threads.
        files: Number of open files and sockets.
    """

    resident_mb: float
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Resources:
        """Read them of a running process."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        resident_mb = int(values["VmRSS"].split()[0]) / 1024
        return cls(resident_mb, int(values["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))
