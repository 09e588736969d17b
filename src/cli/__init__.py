"""The operator's commands: `usage-reporter`. Not deployed."""

VERSION = "1.0.0"
"""Of the whole project; the template's output `Version` says which one is deployed."""
