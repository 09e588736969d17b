"""Assembles, without a network, the folders that a function finds around it on Lambda.

The packages are copied from this environment, whose lock file pins what the layer's pins.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[3]
LAYER = PROJECT / "src" / "layer"
CACHE = PROJECT / ".cache" / "bench"
PINNED = re.compile(r"^([\w-]+)==([\w.]+)", re.MULTILINE)
MIB = 1024 * 1024


class OtherVersionError(Exception):
    """This environment holds another version of a package than the layer ships."""


def layer_folder() -> Path:
    """The layer's folder `python` as it ships, made when its sources changed. Raises OtherVersionError."""
    sources = [each for each in LAYER.rglob("*") if each.is_file() and "__pycache__" not in each.parts]
    return _kept("layer", sources, assemble_layer)


def runtime_folder() -> Path:
    """What stands in for /var/runtime, made when the versions of this environment changed."""
    return _kept("runtime", [PROJECT / "requirements-dev.txt"], assemble_runtime)


def _kept(name: str, sources: Iterable[Path], assemble: Callable[[Path], None]) -> Path:
    known = hashlib.sha256(sys.version.encode())
    for source in sorted(sources):
        known.update(source.name.encode() + source.read_bytes())
    kept = CACHE / f"{name}-{known.hexdigest()[:16]}"
    if not kept.exists():
        for older in CACHE.glob(f"{name}-*"):
            shutil.rmtree(older, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
            assemble(Path(unfinished, name))
            with suppress(OSError):  # another process was faster
                Path(unfinished, name).rename(kept)
    return kept


def assemble_layer(folder: Path) -> None:
    """The layer's folder `python`, finished as `sam build` finishes it. Raises OtherVersionError."""
    pins = dict(PINNED.findall((LAYER / "requirements.txt").read_text()))
    for name, version in pins.items():
        if (found := distribution(name).version) != version:
            raise OtherVersionError(
                f"the layer ships {name} {version}, and here is {found}; run `make install`"
            )
    copy_packages(pins, folder)
    script = LAYER / "build_layer.py"
    subprocess.run([sys.executable, str(script), "--installed", str(folder)], check=True)  # noqa: S603 - ours


def assemble_runtime(folder: Path) -> None:
    """What stands in for /var/runtime: the runtime interface client and boto3, compiled as on Lambda."""
    copy_packages(with_dependencies(["awslambdaric", "boto3"]), folder)
    compiled = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        str(folder),
    ]
    subprocess.run(compiled, check=True)  # noqa: S603 - Python's own


def without_bytecode(layer: Path, folder: Path) -> None:
    """A copy of a layer as `sam build` makes it of its own accord."""
    shutil.copytree(layer, folder, ignore=shutil.ignore_patterns("__pycache__"))


def mebibytes(folder: Path) -> float:
    """The size of all files in a folder, as Lambda counts it."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / MIB


def with_dependencies(names: Iterable[str]) -> set[str]:
    """These distributions and all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = map(Requirement, distribution(name).requires or [])
            waiting += [
                each.name
                for each in requirements
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def copy_packages(names: Iterable[str], folder: Path) -> None:
    """Copy these distributions, and nothing else of this environment, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for top in _top_level(distribution(name)):
            if top.is_dir():
                shutil.copytree(top, folder / top.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(top, folder)


def _top_level(installed: Distribution) -> set[Path]:
    files = [file for file in installed.files or [] if file.parts[0] not in {"..", "__pycache__"}]
    return {Path(str(installed.locate_file(file.parts[0]))) for file in files}
