"""What `usage-reporter doctor` looks at: Stripe, OpenMeter, and a deployed stack."""
