"""A doctor for the installation and for a training that is to come."""
