"""Scenes drawn by a program, with exact ground truth."""
