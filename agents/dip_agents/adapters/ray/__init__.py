"""The vector environment with its groups on Ray workers."""
