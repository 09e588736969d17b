"""Local stand-ins that let the whole system run with no account; never deployed."""
