"""Machine files that were booted before: their trees are kept, so that YAML's scanner needn't be loaded.

Only the scanning is spared: what the tree says is checked each time as if it had just been scanned, and a
message names the same line. A tree is known by the file's whole text. What is kept lies in the user's own
cache folder, beside the kernels that he boots from there; it is plain text, and where it isn't whole it is
as if it were not there. ::

    SHA256 of all that follows, then for each file: SHA256 of its text, SIZE of its tree, newline, tree
"""

from __future__ import annotations

from pykvm.cache.digest import key_of
from pykvm.config.parse import parse
from pykvm.config.tree import read, written
from pykvm.host.kept import Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.node import Node, Source

FILES = 16
"""So many are kept, those that were seen first for the last time go."""
LARGEST = 4096
"""Characters of a tree; a machine file has a few lines."""
DIGITS = 64


def parse_kept(text: str, source: Source) -> Node | None:
    """As ``parse``, sooner where ``text`` was parsed before."""
    kept = Kept("machine files", "config/parse.py", "config/tree.py", "cli/trees.py", of_host=False)
    trees = _unpacked(kept)
    key = key_of(text)
    if key in trees:
        try:
            return read(trees[key], source)
        except ValueError:
            del trees[key]
    root = parse(text, source)
    if root is not None and len(tree := written(root)) <= LARGEST:
        rest = list(trees.items())[: FILES - 1]
        whole = "".join(f"{name} {len(each)}\n{each}" for name, each in [(key, tree), *rest])
        kept.write(key_of(whole) + whole)
    return root


def _unpacked(kept: Kept) -> dict[str, str]:
    """The trees by the hash of their file's text, the newest first; none where anything is damaged."""
    trees: dict[str, str] = {}
    try:
        text = kept.read() or ""
        if text[:DIGITS] != key_of(text[DIGITS:]):
            return {}
        at = DIGITS
        while at < len(text):
            end = text.index("\n", at)
            name, size = text[at:end].split(" ")
            at = end + 1 + int(size)
            trees[name] = text[end + 1 : at]
    except ValueError:  # UnicodeDecodeError is one as well
        return {}
    return trees
