"""What benchmarks need of the stand-ins: many subscriptions, and what they cost."""
