"""The rules of published evaluators, one file each."""
