"""Agents and detectors for environments with numeric actions."""
