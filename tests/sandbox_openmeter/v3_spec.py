"""What of OpenMeter's v3 OpenAPI document the stand-in and the client use, written by hand from it.

Source: OpenMeter, api/v3/openapi.yaml (commit 014812f8), `components`. Descriptions, examples and the schemas
of what is not asked here are left out; a schema that is here has all the fields of the original.
"""

from __future__ import annotations

from typing import Any, Final

from openapi_schema_validator import OAS30Validator

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, *required: str) -> Json:
    made: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": list(required)} if required else made


def _list(item: Json, **limits: int) -> Json:
    return {"type": "array", "items": item, **limits}


_TEXT: Final[Json] = {"type": "string"}
_SOME_TEXT: Final[Json] = {"type": "string", "minLength": 1}
_MAP: Final[Json] = {"type": "object", "additionalProperties": _TEXT}
_VALUES: Final = _list(_TEXT, minItems=1, maxItems=100)
_NAMED: Final[Json] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 256},
    "description": {"type": "string", "maxLength": 1024},
    "labels": _ref("Labels"),
    "key": _ref("ResourceKey"),
    "aggregation": _ref("MeterAggregation"),
    "event_type": _SOME_TEXT,
    "events_from": _ref("DateTime"),
    "value_property": _SOME_TEXT,
    "dimensions": _MAP,
}
_CUSTOMER: Final[Json] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 256},
    "description": {"type": "string", "maxLength": 1024},
    "labels": _ref("Labels"),
    "key": {"type": "string", "minLength": 1, "maxLength": 256},
    "usage_attribution": _ref("BillingCustomerUsageAttribution"),
    "primary_email": _TEXT,
    "currency": {"type": "string", "minLength": 3, "maxLength": 3, "pattern": "^[A-Z]{3}$"},
    "billing_address": {"type": "object"},
}
_FILTER: Final[Json] = {
    **dict.fromkeys(("eq", "neq", "contains", "ncontains"), _TEXT),
    **dict.fromkeys(("in", "nin"), _VALUES),
    **{name: _list(_ref("QueryFilterString"), minItems=1, maxItems=10) for name in ("and", "or")},
}

SCHEMAS: Final[Json] = {
    "ULID": {"type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"},
    "DateTime": {"type": "string", "format": "date-time"},
    "Numeric": {"type": "string", "pattern": r"^\-?[0-9]+(\.[0-9]+)?$"},
    "ResourceKey": {
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "pattern": "^[a-z0-9]+(?:_[a-z0-9]+)*$",
    },
    "Labels": {
        "type": "object",
        "maxProperties": 50,
        "additionalProperties": {
            "type": "string",
            "pattern": "^[a-z0-9A-Z]{1}([a-z0-9A-Z-._]*[a-z0-9A-Z]+)?$",
            "minLength": 1,
            "maxLength": 63,
        },
    },
    "MeterAggregation": {
        "type": "string",
        "enum": ["sum", "count", "unique_count", "avg", "min", "max", "latest"],
    },
    "Meter": _object(
        {
            "id": _ref("ULID"),
            "created_at": _ref("DateTime"),
            "updated_at": _ref("DateTime"),
            "deleted_at": _ref("DateTime"),
            **_NAMED,
        },
        *("id", "name", "created_at", "updated_at", "key", "aggregation", "event_type"),
    ),
    "CreateMeterRequest": _object(_NAMED, "name", "key", "aggregation", "event_type"),
    "MeterPagePaginatedResponse": _object(
        {"data": _list(_ref("Meter")), "meta": _ref("PaginatedMeta")}, "data", "meta"
    ),
    "PaginatedMeta": {"type": "object", "properties": {"page": _ref("PageMeta")}, "required": ["page"]},
    "PageMeta": {
        "type": "object",
        "properties": {name: {"type": "number"} for name in ("number", "size", "total")},
        "required": ["number", "size", "total"],
    },
    "BillingCustomer": _object(
        {
            "id": _ref("ULID"),
            "created_at": _ref("DateTime"),
            "updated_at": _ref("DateTime"),
            "deleted_at": _ref("DateTime"),
            **_CUSTOMER,
        },
        *("id", "name", "created_at", "updated_at", "key"),
    ),
    "CreateCustomerRequest": _object(_CUSTOMER, "name", "key"),
    "BillingCustomerUsageAttribution": _object(
        {"subject_keys": _list(_SOME_TEXT, minItems=0)}, "subject_keys"
    ),
    "CustomerPagePaginatedResponse": _object(
        {"data": _list(_ref("BillingCustomer")), "meta": _ref("PaginatedMeta")}, "data", "meta"
    ),
    "MeterQueryRequest": _object(
        {
            "from": _ref("DateTime"),
            "to": _ref("DateTime"),
            "granularity": {"type": "string", "enum": ["PT1M", "PT1H", "P1D", "P1M"]},
            "time_zone": _TEXT,
            "group_by_dimensions": _list(_TEXT, maxItems=100),
            "filters": _object(
                {
                    "dimensions": {
                        "type": "object",
                        "additionalProperties": _ref("QueryFilterStringMapItem"),
                        "maxProperties": 10,
                    }
                }
            ),
        }
    ),
    "QueryFilterString": _object(_FILTER),
    "QueryFilterStringMapItem": _object({"exists": {"type": "boolean"}, **_FILTER}),
    "MeterQueryResult": _object(
        {"from": _ref("DateTime"), "to": _ref("DateTime"), "data": _list(_ref("MeterQueryRow"))}, "data"
    ),
    "MeterQueryRow": _object(
        {"value": _ref("Numeric"), "from": _ref("DateTime"), "to": _ref("DateTime"), "dimensions": _MAP},
        *("value", "from", "to", "dimensions"),
    ),
    "MeteringEvent": _object(
        {
            "id": _SOME_TEXT,
            "source": _SOME_TEXT,
            "specversion": _SOME_TEXT,
            "type": _SOME_TEXT,
            "datacontenttype": {"type": "string", "enum": ["application/json"], "nullable": True},
            "dataschema": {"type": "string", "nullable": True, "minLength": 1},
            "subject": _SOME_TEXT,
            "time": {"type": "string", "format": "date-time", "nullable": True},
            "data": {"type": "object", "additionalProperties": {}, "nullable": True},
        },
        *("id", "source", "specversion", "type", "subject"),
    ),
    "MeteringIngestedEvent": _object(
        {
            "event": _ref("MeteringEvent"),
            "customer": _object({"id": _ref("ULID")}, "id"),
            "ingested_at": _ref("DateTime"),
            "stored_at": _ref("DateTime"),
            "validation_errors": _list(
                _object(
                    {
                        "code": _TEXT,
                        "message": _TEXT,
                        "attributes": {"type": "object", "additionalProperties": {}},
                    },
                    *("code", "message"),
                )
            ),
        },
        *("event", "ingested_at", "stored_at"),
    ),
    "IngestedEventPaginatedResponse": _object(
        {"data": _list(_ref("MeteringIngestedEvent")), "meta": _ref("CursorMeta")}, "data", "meta"
    ),
    "CursorMeta": {"type": "object", "properties": {"page": _ref("CursorMetaPage")}, "required": ["page"]},
    "CursorMetaPage": {
        "type": "object",
        "properties": {
            "first": _TEXT,
            "last": _TEXT,
            "next": {"type": "string", "nullable": True},
            "previous": {"type": "string", "nullable": True},
            "size": {"type": "number"},
        },
        "required": ["size", "next", "previous"],
    },
    "BaseError": {
        "type": "object",
        "properties": {
            "status": {"type": "integer"},
            **dict.fromkeys(("title", "type", "instance", "detail"), _TEXT),
        },
        "required": ["status", "title", "instance", "detail"],
    },
    "InvalidParameter": _object(
        {"field": _TEXT, "rule": {"type": "string", "nullable": True}, "source": _TEXT, "reason": _TEXT},
        *("field", "reason"),
    ),
    "BadRequestError": {
        "allOf": [
            _ref("BaseError"),
            {
                "type": "object",
                "properties": {"invalid_parameters": _list(_ref("InvalidParameter"), minItems=1)},
            },
        ]
    },
}
"""`InvalidParameter` has the common fields of the five forms that there are. That every 400 names one, as the
document wants, is not so in the server's code (`NewBadRequestError` with none)."""


def errors(name: str, value: object) -> list[str]:
    """What the spec has against a value that is to be of one of its schemas."""
    schema = {**_ref(name), "components": {"schemas": SCHEMAS}}
    found = OAS30Validator(schema).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]
