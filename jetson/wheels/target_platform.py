"""Platform that wheels are collected for: Python, processor, C library, and CUDA on a Jetson."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.core.errors import InputError

JETPACKS = {
    "jetpack-6": "cp310-manylinux_2_35_aarch64+cuda12",
    "jetpack-7": "cp312-manylinux_2_39_aarch64+cuda",
}
OLDEST_GLIBC_MINOR = {"aarch64": 17, "x86_64": 5}
"""Lowest minor version of glibc 2 in the tags of wheels, by processor."""
LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Names before PEP 600, by the minor version of glibc."""
_PATTERN = re.compile(r"cp3(\d{1,2})-manylinux_2_(\d{1,3})_(aarch64|x86_64)(?:\+(cuda|cuda12))?")


@dataclass(frozen=True)
class TargetPlatform:
    """CPython on Linux with glibc.

    Attributes:
        python_minor: Minor version of Python 3.
        processor: "aarch64" or "x86_64".
        glibc_minor: Minor version of glibc 2.
        cuda_extra: Extra of aerogaze for its GPU; empty for none.
    """

    python_minor: int
    processor: str
    glibc_minor: int
    cuda_extra: str = ""

    def __str__(self) -> str:
        """Return the name of the platform, such as `cp310-manylinux_2_35_aarch64+cuda12`."""
        name = f"cp3{self.python_minor}-manylinux_2_{self.glibc_minor}_{self.processor}"
        return f"{name}+{self.cuda_extra}" if self.cuda_extra else name

    @property
    def python(self) -> str:
        """Version of Python, such as 3.10."""
        return f"3.{self.python_minor}"

    @property
    def extras(self) -> frozenset[str]:
        """Extras of aerogaze that the platform needs."""
        return frozenset({"jetson", self.cuda_extra} - {""})

    def platform_tags(self) -> list[str]:
        """Return the platform tags of wheels that run there, the newest C library first."""
        tags = []
        for glibc_minor in range(self.glibc_minor, OLDEST_GLIBC_MINOR[self.processor] - 1, -1):
            tags.append(f"manylinux_2_{glibc_minor}_{self.processor}")
            if glibc_minor in LEGACY_TAGS:
                tags.append(f"{LEGACY_TAGS[glibc_minor]}_{self.processor}")
        return tags

    def marker_environment(self) -> dict[str, str]:
        """Return the values of environment markers (PEP 508) on the platform."""
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
    """Parse the name of a platform, or jetpack-6 or jetpack-7.

    Raises:
        InputError: The text is something else, such as a platform without prebuilt wheels.
    """
    match = _PATTERN.fullmatch(JETPACKS.get(text, text))
    if match is None:
        raise InputError(
            f"no wheels exist for {text!r}; expected {', '.join(JETPACKS)}, or CPython with glibc on "
            "aarch64 or x86_64, such as cp310-manylinux_2_35_aarch64"
        )
    python_minor, glibc_minor, processor, cuda_extra = match.groups()
    return TargetPlatform(int(python_minor), processor, int(glibc_minor), cuda_extra or "")
