"""What each reward of DIP-R1 does: variants trained over several seeds and compared."""
