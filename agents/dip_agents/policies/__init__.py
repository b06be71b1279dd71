"""Who acts: scripted policies, the oracle, and language models behind an engine or a server."""
