"""Methods put on models, one a file."""
