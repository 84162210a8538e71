"""The user's cache folder: what was made once with effort, found again by its key."""

from pykvm.cache.digest import key_of, sha256_of_file
from pykvm.cache.store import Cache

__all__ = ["Cache", "key_of", "sha256_of_file"]
