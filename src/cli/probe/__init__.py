"""`usage-reporter probe`: how a Stripe account behaves where Stripe's documentation is silent."""
