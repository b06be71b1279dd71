"""What a run needs around its learning: seeds, processes, checkpoints, logs."""
