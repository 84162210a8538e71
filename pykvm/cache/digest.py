"""Hashes: of a few words, for keys, and of whole files."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    # hashlib loads OpenSSL, which costs more than a whole look-up does; a key is the hash of a few bytes,
    # for which the interpreter's own SHA-256 will do. It has one name in Python 3.11, another after it.
    try:
        from _sha256 import sha256
    except ImportError:
        from _sha2 import sha256

CHUNK = 1 << 20


def key_of(*parts: str | bytes) -> str:
    """The key of something that depends on ``parts`` and on nothing else: 64 hexadecimal digits.

    Each part counts with its length, so that ("ab", "c") and ("a", "bc") differ.
    """
    whole = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(b"%d:" % len(data))
        whole.update(data)
    return whole.hexdigest()


def sha256_of_file(path: str) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    from hashlib import sha256 as fast_sha256  # OpenSSL's: three times as fast, and worth it here

    whole = fast_sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
    return whole.hexdigest()
