"""Data loaders under Torch-RecHub's names."""
