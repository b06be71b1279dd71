"""Readers of data sets on disk, one file each."""
