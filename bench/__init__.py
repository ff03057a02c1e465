"""The cost of a request: the service compared with a floor written by hand for the same stack. ``python -m bench --help``."""
