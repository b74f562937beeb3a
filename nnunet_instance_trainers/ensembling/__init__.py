"""Predictions of several models made into one: each size of object from the model that is best at it."""
