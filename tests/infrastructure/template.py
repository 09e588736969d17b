"""The template as written and as CloudFormation sees it; run as a module, it prints the latter."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from samtranslator.translator.transform import transform

PROJECT = Path(__file__).resolve().parents[2]
Block = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads the short forms of intrinsic functions as the long ones."""


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> Block:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _intrinsic)


class _NoManagedPolicies:
    """The template names none, so none need be looked up in an account."""

    def load(self) -> dict[str, str]:
        return {}


def read(path: Path) -> Block:
    """A template, with the long forms of intrinsic functions."""
    loaded: Block = yaml.load(path.read_text(), Loader=_Loader)
    return loaded


def source() -> Block:
    """template.yaml, with the long forms of intrinsic functions."""
    return read(PROJECT / "template.yaml")


def transformed() -> Block:
    """What the SAM transform makes of it."""
    template = source()
    for resource in template["Resources"].values():
        for key in {"CodeUri", "ContentUri"} & resource.get("Properties", {}).keys():
            resource["Properties"][key] = "s3://bucket/key"
    with mock.patch.dict(os.environ, {"AWS_DEFAULT_REGION": "us-east-1"}):
        result: Block = transform(json.loads(json.dumps(template)), {}, _NoManagedPolicies())
    return result


@cache
def resources(kind: str) -> dict[str, Block]:
    """The transformed resources of one CloudFormation type, by logical id."""
    found = transformed()["Resources"].items()
    return {name: resource for name, resource in found if resource["Type"] == kind}


if __name__ == "__main__":
    json.dump(transformed(), sys.stdout, indent=1)
