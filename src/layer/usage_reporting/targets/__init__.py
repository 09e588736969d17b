"""What to send, one file for each way that Stripe can be made to hold usage; pure."""
