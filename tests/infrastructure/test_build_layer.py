"""What `sam build` makes of src/layer: all that is imported, compiled, and little else."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_layer
from sandbox.bench.layer import OtherVersionError, assemble_layer, layer_folder, mebibytes
from tests.infrastructure.template import PROJECT

UNCHECKED_HASH = 0b01
"""The flags of a compiled file that is never compared with its source (PEP 552)."""


@pytest.fixture(scope="session")
def layer() -> Path:
    return layer_folder()


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_every_module_is_compiled_and_never_compared_with_its_source(layer: Path) -> None:
    assert len(modules(layer)) > 500
    for module in modules(layer):
        compiled = Path(importlib.util.cache_from_source(str(module))).read_bytes()
        assert compiled[:4] == importlib.util.MAGIC_NUMBER, module
        assert int.from_bytes(compiled[4:8], "little") == UNCHECKED_HASH, module
        assert compiled[8:16] == importlib.util.source_hash(module.read_bytes()), module


def test_tracebacks_name_the_place_on_lambda(layer: Path) -> None:
    compiled = Path(importlib.util.cache_from_source(str(layer / "usage_reporting" / "windows.py")))
    assert b"/opt/python/usage_reporting/windows.py" in compiled.read_bytes()
    assert str(layer).encode() not in compiled.read_bytes()


def test_it_fits(layer: Path) -> None:
    assert mebibytes(layer) < 40


def test_it_is_the_same_each_time(layer: Path, tmp_path: Path) -> None:
    assemble_layer(tmp_path / "again")
    first, again = (
        {str(each.relative_to(root)): each.read_bytes() for each in root.rglob("*") if each.is_file()}
        for root in (layer, tmp_path / "again")
    )
    assert first == again


def test_it_carries_no_scripts_and_says_what_it_carries(layer: Path) -> None:
    assert not (layer / "bin").exists()
    information = list(layer.glob("*.dist-info"))
    assert len(information) == len(list(layer.glob("*.dist-info/METADATA"))) > 5
    assert not list(layer.glob("*.dist-info/RECORD"))
    assert not (layer / "build_layer.py").exists()


def test_nothing_imports_what_is_left_out_at_run_time(layer: Path) -> None:
    # All of Stripe's own imports of it are for type checkers, or on first use of the name stripe.params.
    assert not (layer / "stripe" / "params").exists()
    found = [module for module in modules(layer) if "stripe.params" in module.read_text()]
    assert len(found) > 100, "Stripe keeps the types of its parameters elsewhere"
    for module in found:
        names = list(imported_at_run_time(ast.parse(module.read_text())))
        assert not [name for name in names if name.startswith("stripe.params")], module
    ours = (layer / "usage_reporting").rglob("*.py")
    assert not [module for module in ours if "params" in imported_names(module)]


def imported_at_run_time(node: ast.AST) -> Iterator[str]:
    """The modules that a tree imports, but for what only type checkers see."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{each.name}" for each in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_at_run_time(child)


def imported_names(module: Path) -> set[str]:
    return {part for name in imported_at_run_time(ast.parse(module.read_text())) for part in name.split(".")}


def test_stripe_needs_no_requests(layer: Path) -> None:
    # It is Stripe's default client, and a tenth of the time to import stripe; ours is httpx.
    assert not (layer / "requests").exists()
    code = "import stripe, sys; stripe.HTTPXClient(); print('requests' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(layer)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "False\n", ran.stderr


def test_another_version_than_the_pinned_one_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("stripe==1.0.0 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr("sandbox.bench.layer.LAYER", tmp_path)
    with pytest.raises(OtherVersionError, match=r"stripe 1\.0\.0"):
        assemble_layer(tmp_path / "layer")


def test_what_cannot_be_compiled_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def:\n")
    with pytest.raises(SystemExit, match="cannot compile"):
        build_layer.finish(tmp_path)


def make(tmp_path: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run the layer's Makefile as SAM does, in a copy of its folder and with nothing else around."""
    copy = tmp_path / "scratch"
    copy.mkdir()
    shutil.copy(PROJECT / "src/layer/Makefile", copy)
    (copy / "build_layer.py").write_text("import sys; print('built', sys.argv[1], sys.version_info[:2])\n")
    program = shutil.which("make")
    assert program
    return subprocess.run(
        [program, "--makefile", str(copy / "Makefile"), "build-UsageReportingLayer"],
        cwd=copy,
        env={"PATH": path, "ARTIFACTS_DIR": "/some where"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_build_finds_a_python_of_the_functions_version(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    other, right = folder / "python3.13", folder / "python3"
    other.write_text("#!/bin/sh\nexit 1\n")
    right.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for each in (other, right):
        each.chmod(0o755)
    ran = make(tmp_path, os.pathsep.join([str(folder), "/usr/bin", "/bin"]))
    assert ran.stdout == "built /some where/python (3, 13)\n", ran.stderr


def test_the_build_says_that_there_is_no_such_python(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3.13", "python3", "python"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    ran = make(tmp_path, os.pathsep.join([str(folder), "/usr/bin", "/bin"]))
    assert ran.returncode
    assert "Python 3.13 with pip must be on the PATH" in ran.stderr
