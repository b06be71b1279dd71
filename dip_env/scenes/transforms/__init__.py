"""Sources made of other sources: filtered, mixed, split, stored, streamed."""
