"""Examples, benchmarks and studies; run from the root of a checkout."""
