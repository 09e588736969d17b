"""`usage-reporter probe`: how a Stripe account behaves where Stripe's documentation is silent."""

from cli.probe.command import probe

__all__ = ["probe"]
