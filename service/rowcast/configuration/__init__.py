"""A config directory as one checked value: settings, resources and the options of their viewsets.

``load`` is the entrance. The package reads YAML and JSON files, the environment and ``rowcast.resources``; it imports no
class that the config names. ``scope`` is the option of the same name. The command line and ``rowcast.server`` use it, and viewsets use ``viewset_options``.
"""
