"""The guests that ship with pykvm, and the recipes by which those of others' code are made.

``pykvm/shipped/guests`` is the data's place in a wheel; in a checkout it is a link to the folder
``guests`` at its top. A guest is a folder there that has a machine.yaml.
"""

from __future__ import annotations

import os

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shipped", "guests")


def find(name: str) -> str | None:
    """The folder of the shipped guest ``name``, or None where there is none of that name."""
    if not name or "/" in name or name.startswith("."):
        return None
    folder = os.path.join(FOLDER, name)
    return folder if os.path.exists(os.path.join(folder, "machine.yaml")) else None


def names() -> list[str]:
    """The names of all shipped guests."""
    return sorted(name for name in os.listdir(FOLDER) if find(name))
