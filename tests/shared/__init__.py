"""Tests of shared: what every other part speaks."""
