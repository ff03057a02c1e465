"""What a request costs: the service beside a floor written by hand for the same stack. ``python -m bench --help``."""
