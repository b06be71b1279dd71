"""Scenes as a verifiers (v1) taskset, environment and harness."""
