"""Engines that sample from a language model."""
