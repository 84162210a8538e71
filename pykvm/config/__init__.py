"""The machine file: its keys, their defaults, and errors that say where and what to do."""

from pykvm.config.machine import defaults_for, load
from pykvm.config.override import Override

__all__ = ["Override", "defaults_for", "load"]
