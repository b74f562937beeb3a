"""Volume-based ensembling: the pure functions, the same over folders, and the fit."""
