"""Models under Torch-RecHub's names."""
