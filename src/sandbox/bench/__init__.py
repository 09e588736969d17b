"""Measures the speed of this software, in one run and as ratios."""
