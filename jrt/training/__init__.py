"""Committed, seeded recipes that make the embedded models."""
