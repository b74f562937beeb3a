"""Folders of predictions scored against folders of annotations."""
