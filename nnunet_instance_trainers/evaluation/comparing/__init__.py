"""Evaluated models side by side: means with intervals, ranks and tests."""
