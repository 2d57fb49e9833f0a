"""What is installed, by its metadata: packages, extras, and builds that overwrite each other.

Nothing is imported for it: TensorFlow alone takes seconds, and a broken package must be told of,
too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NAME: Final = "rnnonnx"
_RUNTIME: Final = "onnxruntime"
"""ONNX Runtime comes as several packages (for GPUs, for OpenVINO), all of which write here."""

_REQUIREMENT: Final = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?\s*([^;]*)(?:;(.*))?")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that rnnonnx uses.

    Attributes:
        name: Its name on the package index.
        version: The version installed; None where it is not.
        wanted: What rnnonnx asks for: `>=1.20`; empty for any version.
        extras: Extras of rnnonnx that bring it; empty for what it always needs.
    """

    name: str
    version: str | None
    wanted: str
    extras: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of rnnonnx.

    Attributes:
        name: Its name.
        missing: What it needs and is not there, or too old, as pip takes it.
        command: What installs that; None where nothing is missing.
    """

    name: str
    missing: tuple[str, ...]
    command: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is broken, and not merely absent.

    Attributes:
        message: What.
        remedy: What to do about it.
    """

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What the metadata says.

    Attributes:
        packages: Those that rnnonnx needs or can use, itself first.
        extras: Its extras.
        runtimes: Version by name of every package that brings a module `onnxruntime`.
        faults: What is broken.
    """

    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    runtimes: dict[str, str]
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Requirement:
    name: str
    inner: tuple[str, ...]
    wanted: str
    extra: str | None


def installed() -> Installed:
    """Read the metadata of what is installed."""
    requirements = list(_requirements())
    runtimes = _runtimes()
    names = list(dict.fromkeys(item.name for item in requirements if item.name != _NAME))
    names += [name for name in runtimes if name not in names]
    versions = {name: _version(name) for name in names}
    extras = dict.fromkeys(item.extra for item in requirements if item.extra)
    packages = [Package(_NAME, _version(_NAME), "", ())]
    for name in names:
        mine = [item for item in requirements if item.name == name]
        packages.append(
            Package(
                name,
                versions[name],
                mine[0].wanted if mine else "",
                tuple(dict.fromkeys(item.extra for item in mine if item.extra)),
            )
        )
    return Installed(
        tuple(packages),
        tuple(_extra(name, requirements, versions, runtimes) for name in extras),
        runtimes,
        tuple(_faults(packages, runtimes)),
    )


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: `1.32.0rc1` is (1, 32, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _requirements() -> Iterator[_Requirement]:
    for line in metadata.requires(_NAME) or ():
        found = _REQUIREMENT.fullmatch(line)
        if found:
            name, inner, wanted, marker = found.groups()
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker or "")
            parts = tuple(part.strip() for part in (inner or "").split(",") if part.strip())
            yield _Requirement(name, parts, wanted.strip(), extra and extra[1])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runtimes() -> dict[str, str]:
    """The packages that bring a module `onnxruntime`, by the files that they list.

    Those of the first folder that has one: what comes later on `sys.path` is not imported.
    """
    found: dict[str, str] = {}
    folder = None
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if not name.lower().startswith(_RUNTIME):
            continue
        here = os.path.realpath(str(distribution.locate_file("")))
        files = {str(file) for file in distribution.files or ()}
        if f"{_RUNTIME}/__init__.py" in files and folder in (None, here):
            folder = here
            found.setdefault(name, distribution.version)
    return found


def _extra(
    name: str,
    requirements: list[_Requirement],
    versions: Mapping[str, str | None],
    runtimes: Mapping[str, str],
) -> Extra:
    missing = []
    for item in _needs(name, requirements):
        version = versions[item.name]
        if item.name == _RUNTIME and version is None and runtimes:
            version = next(iter(runtimes.values()))  # another build of it does as well
        if version is None or not _fits(version, item.wanted):
            missing.append(f"{item.name}{item.wanted}")
    if not missing:
        return Extra(name, (), None)
    others = [build for build in runtimes if build != _RUNTIME]
    if any(text.startswith(f"{_RUNTIME}-") for text in missing) and runtimes:
        builds = " ".join(runtimes)
        command = f'pip uninstall -y {builds}; pip install "{_NAME}[{name}]"'
    elif others:  # the extra would bring the plain build beside the other one
        command = " ".join(["pip install", *(f'"{text}"' for text in missing)])
    else:
        command = f'pip install "{_NAME}[{name}]"'
    return Extra(name, tuple(missing), command)


def _needs(extra: str, requirements: Iterable[_Requirement]) -> list[_Requirement]:
    """What an extra asks for, by the extras that it consists of, too; each package once."""
    requirements = list(requirements)
    found: dict[str, _Requirement] = {}
    for item in requirements:
        if item.extra != extra:
            continue
        if item.name != _NAME:
            found.setdefault(item.name, item)
            continue
        for inner in item.inner:
            for needed in _needs(inner, requirements):
                found.setdefault(needed.name, needed)
    return list(found.values())


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is not below the `>=` of a requirement; nothing else is looked at."""
    floor = re.search(r">=\s*([\w.]+)", wanted)
    return floor is None or release(version) >= release(floor[1])


def _faults(packages: Iterable[Package], runtimes: Mapping[str, str]) -> Iterator[Fault]:
    if len(runtimes) > 1:
        *others, last = sorted(runtimes)
        yield Fault(
            f"{', '.join(others)} and {last} are installed together, and have overwritten each"
            " other's files",
            f'pip uninstall -y {" ".join(runtimes)}; pip install "{last}"',
        )
    for package in packages:
        always = not package.extras and package.name not in (_NAME, *runtimes)
        if always and (package.version is None or not _fits(package.version, package.wanted)):
            yield Fault(
                f"{package.name} is {package.version or 'missing'}, and rnnonnx needs"
                f" {package.name}{package.wanted}",
                f'pip install -U "{package.name}{package.wanted}"',
            )
