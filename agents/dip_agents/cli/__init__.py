"""The ``dip`` command line: one command a file."""
