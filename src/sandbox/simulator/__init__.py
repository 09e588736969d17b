"""Random worlds through the real functions on one virtual clock, and every bill against an oracle."""
