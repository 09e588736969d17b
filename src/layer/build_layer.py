"""Builds the layer: the pinned packages and usage_reporting, compiled, without what is never used.

Lambda cannot write beside the modules of a layer: what is not compiled here is compiled at each cold start.
"""

from __future__ import annotations

import argparse
import compileall
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ON_LAMBDA = "/opt/python"
"""Where Lambda unpacks the folder `python` of a layer, as tracebacks name it."""
NEVER_USED = ("bin", "*.data", "stripe/params")
"""Scripts; and types of Stripe's parameters, a third of the layer, that type checkers alone import."""
ABOUT_A_PACKAGE = frozenset({"METADATA", "licenses"})
"""Which package it is, for scanners, and on what terms; the rest tells of the machine that built it."""


def install(target: Path) -> None:
    """Install the pinned packages: pure wheels alone, the same on every platform.

    Raises CalledProcessError when pip fails; it says why.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    pure = ["--no-deps", "--only-binary", ":all:", "--platform", "any"]
    pinned = ["--require-hashes", "--requirement", str(HERE / "requirements.txt")]
    subprocess.run([*pip, *pure, *pinned, "--target", str(target)], check=True)  # noqa: S603 - our own pip


def finish(target: Path) -> None:
    """Add usage_reporting to the installed packages, drop what is never used, compile the rest."""
    ours = target / "usage_reporting"
    shutil.copytree(HERE / "usage_reporting", ours, ignore=shutil.ignore_patterns("__pycache__"))
    _trim(target)
    _compile(target)


def _trim(target: Path) -> None:
    about = [each for info in target.glob("*.dist-info") for each in info.iterdir()]
    unwanted = [each for each in about if each.name not in ABOUT_A_PACKAGE]
    unwanted += [each for pattern in NEVER_USED for each in target.glob(pattern)]
    for each in unwanted:
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


def _compile(target: Path) -> None:
    # Unchecked: a layer never changes, and its files get new times when they are unpacked.
    is_done = compileall.compile_dir(
        target,
        maxlevels=sys.getrecursionlimit(),
        force=True,
        quiet=1,
        stripdir=target,
        prependdir=ON_LAMBDA,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not is_done:
        raise SystemExit("the layer holds modules that Python cannot compile")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the folder `python` of the layer; empty or new")
    parser.add_argument("--installed", action="store_true", help="it holds the packages already")
    arguments = parser.parse_args()
    if not arguments.installed:
        install(arguments.target)
    finish(arguments.target)
