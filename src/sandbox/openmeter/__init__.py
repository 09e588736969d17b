"""A stand-in for OpenMeter's v1 API: stateful, in memory, at least as strict as the real one."""

from sandbox.openmeter.app import create_app
from sandbox.openmeter.cloudevents import Event
from sandbox.openmeter.customers import Customer
from sandbox.openmeter.faults import Calls, Fault, Faults, QueryCall
from sandbox.openmeter.meters import Meter
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.query import Query, QueryResult, Row
from sandbox.openmeter.sandbox import OpenMeterSandbox, OpenMeterSettings

__all__ = [
    "Calls",
    "Customer",
    "Event",
    "Fault",
    "Faults",
    "Meter",
    "OpenMeterSandbox",
    "OpenMeterSettings",
    "Problem",
    "Query",
    "QueryCall",
    "QueryResult",
    "Row",
    "create_app",
]
