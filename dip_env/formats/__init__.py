"""File formats that readers and metrics share."""
