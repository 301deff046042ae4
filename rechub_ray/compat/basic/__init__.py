"""Features, loggers, callbacks and losses under Torch-RecHub's names."""
