"""For what machine wheels are gathered: its Python, processor, C library, and CUDA if it is a Jetson."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.core.errors import InputError

JETPACKS = {
    "jetpack-6": "cp310-manylinux_2_35_aarch64+cuda12",
    "jetpack-7": "cp312-manylinux_2_39_aarch64+cuda",
}
OLDEST_GLIBC = {"aarch64": 17, "x86_64": 5}
"""The least 2.x that wheels are tagged with."""
OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_SPELLING = re.compile(r"cp3(\d{1,2})-manylinux_2_(\d{1,3})_(aarch64|x86_64)(?:\+(cuda|cuda12))?")


@dataclass(frozen=True)
class TargetPlatform:
    """CPython 3.`minor` on Linux with glibc 2.`glibc`. `cuda`: the extra that drives its GPU, or none."""

    minor: int
    processor: str
    glibc: int
    cuda: str = ""

    def __str__(self) -> str:
        """Spell it as wheels are tagged, as `cp310-manylinux_2_35_aarch64+cuda12`."""
        spelt = f"cp3{self.minor}-manylinux_2_{self.glibc}_{self.processor}"
        return f"{spelt}+{self.cuda}" if self.cuda else spelt

    @property
    def python(self) -> str:
        """Its Python's version, as 3.10."""
        return f"3.{self.minor}"

    @property
    def extras(self) -> frozenset[str]:
        """Which extras of aerogaze it gets."""
        return frozenset({"jetson", self.cuda} - {""})

    def platform_tags(self) -> list[str]:
        """Return the platform tags of wheels that run there, the newest C library first."""
        found = []
        for glibc in range(self.glibc, OLDEST_GLIBC[self.processor] - 1, -1):
            found.append(f"manylinux_2_{glibc}_{self.processor}")
            if glibc in OLD_NAMES:
                found.append(f"{OLD_NAMES[glibc]}_{self.processor}")
        return found

    def marker_environment(self) -> dict[str, str]:
        """Return what environment markers (PEP 508) see there."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.processor,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def parse_platform(text: str) -> TargetPlatform:
    """Read a machine as it is spelt, or jetpack-6 or jetpack-7.

    Raises:
        InputError: it is something else, as a board whose wheels nobody builds.
    """
    match = _SPELLING.fullmatch(JETPACKS.get(text, text))
    if match is None:
        raise InputError(
            f"no wheels are gathered for {text!r}; expected {', '.join(JETPACKS)}, or CPython with glibc on "
            "aarch64 or x86_64, as cp310-manylinux_2_35_aarch64"
        )
    minor, glibc, processor, cuda = match.groups()
    return TargetPlatform(int(minor), processor, int(glibc), cuda or "")
