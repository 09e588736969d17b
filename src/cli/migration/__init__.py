"""Moving a Stripe account from legacy metered prices (usage records) to meters."""
