"""Scenes behind an OpenEnv server, and a client for it."""
