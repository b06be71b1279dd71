"""Supervised fine-tuning on demonstrations of the oracle."""
