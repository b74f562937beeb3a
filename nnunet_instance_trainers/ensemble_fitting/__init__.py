"""An ensemble chosen on cross-validation predictions; it imports ``ensembling``, which knows nothing of it."""
