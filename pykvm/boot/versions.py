"""Which of two versions of a Debian package is the newer one: deb-version(7), "Sorting algorithm"."""

from __future__ import annotations


def compare(a: str, b: str) -> int:
    """Negative where version ``a`` is older than ``b``, positive where it is newer, 0 where neither is."""
    epoch_a, upstream_a, revision_a = _split(a)
    epoch_b, upstream_b, revision_b = _split(b)
    return epoch_a - epoch_b or _compare_part(upstream_a, upstream_b) or _compare_part(revision_a, revision_b)


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), upstream, revision


def _compare_part(a: str, b: str) -> int:
    """Runs of other characters and numbers in turn, from the left, until one differs."""
    while a or b:
        text_a, a = _take(a, digits=False)
        text_b, b = _take(b, digits=False)
        # Where one run ends, the end counts as a character: after a tilde, before everything else.
        for i in range(max(len(text_a), len(text_b))):
            difference = _order(text_a[i : i + 1]) - _order(text_b[i : i + 1])
            if difference:
                return difference
        number_a, a = _take(a, digits=True)
        number_b, b = _take(b, digits=True)
        difference = int(number_a or "0") - int(number_b or "0")
        if difference:
            return difference
    return 0


def _take(text: str, *, digits: bool) -> tuple[str, str]:
    end = 0
    while end < len(text) and text[end].isdigit() == digits:
        end += 1
    return text[:end], text[end:]


def _order(character: str) -> int:
    """Tilde, the end, letters, everything else."""
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256
