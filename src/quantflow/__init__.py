"""quantflow: prototype in Jupyter, promote with one command, run it on Kafka.

The package root stays empty on purpose: importing it costs nothing, and each
capability is imported from the package that owns it (see ``docs/architecture.md``).
"""

__version__ = "0.1.0"
