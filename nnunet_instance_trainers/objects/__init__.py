"""Lists of objects out of segmentations, and what became of each since an earlier time point."""
