"""Tests of the container readers, against the real writers."""
