"""Measurements of speed and memory: what docs/performance.md reports."""
