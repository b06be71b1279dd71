"""Measurements of one trained model."""
