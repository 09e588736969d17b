"""The files that set the project up and deploy it agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cli import VERSION
from tests.infrastructure.template import PROJECT, source

LOCKS = sorted(PROJECT.glob("requirements-*.txt"))
LAYER = PROJECT / "src" / "layer" / "requirements.txt"
PIN = re.compile(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return dict(PIN.findall(lock.read_text()))


@pytest.mark.parametrize("lock", [*LOCKS, LAYER], ids=lambda lock: lock.name)
def test_locks_have_hashes_and_name_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert len(requirements) == len(pins(lock)) > 0
    assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_the_layer_is_tested_at_the_versions_it_ships() -> None:
    layer, tested = pins(LAYER), pins(PROJECT / "requirements-dev.txt")
    assert layer.items() <= tested.items()


def test_the_layer_carries_what_it_is_asked_to_and_leaves_boto3_to_the_runtime() -> None:
    groups = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]
    asked = {re.split(r"[<>=]", requirement)[0] for requirement in groups["layer"]}
    assert asked == {"aws-lambda-powertools", "httpx", "sniffio", "stripe"}
    assert asked <= pins(LAYER).keys()
    assert not {"boto3", "botocore", "aws-xray-sdk", "pydantic"} & pins(LAYER).keys()


def test_the_layer_is_the_same_on_every_platform() -> None:
    # One hash a requirement: that of its pure wheel. A compiled wheel would have one for each.
    assert LAYER.read_text().count("--hash=") == len(pins(LAYER))


def test_the_stack_says_the_version_of_the_command_line() -> None:
    assert source()["Outputs"]["Version"]["Value"] == VERSION
    newest = re.search(r"^## \[(\d[^]]*)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == VERSION


def test_the_project_file_takes_version_and_licence_from_where_they_are() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cli.VERSION"}
    assert project["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (PROJECT / "LICENSE").read_text()


def test_dev_only_looks_and_prod_sends() -> None:
    config = tomllib.loads((PROJECT / "samconfig.toml").read_text())
    assert config["dev"]["deploy"]["parameters"]["parameter_overrides"] == ["Mode=shadow"]
    assert config["prod"]["deploy"]["parameters"]["parameter_overrides"] == ["Mode=live"]
    names = {config[name]["deploy"]["parameters"]["stack_name"] for name in ("dev", "prod")}
    assert len(names) == 2
    for environment in ("default", "dev", "prod"):
        deploy = config[environment]["deploy"]["parameters"]
        assert deploy["capabilities"] == "CAPABILITY_IAM"
        assert deploy["resolve_s3"] is True
        assert not {"region", "profile", "s3_bucket", "role_arn"} & deploy.keys()


def test_samconfig_sets_parameters_that_exist() -> None:
    config = tomllib.loads((PROJECT / "samconfig.toml").read_text())
    for environment in ("dev", "prod"):
        for override in config[environment]["deploy"]["parameters"]["parameter_overrides"]:
            name, _, value = override.partition("=")
            assert value in source()["Parameters"][name]["AllowedValues"]


def test_python_is_the_same_everywhere() -> None:
    assert (PROJECT / ".python-version").read_text().strip() == "3.13"
    assert source()["Globals"]["Function"]["Runtime"] == "python3.13"
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.13"
    assert project["tool"]["mypy"]["python_version"] == "3.13"
