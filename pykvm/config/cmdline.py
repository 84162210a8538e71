"""The kernel's command line as words."""

from __future__ import annotations


def words(line: str) -> list[str]:
    """The words of a command line; blanks inside of double quotes part none (lib/cmdline.c, next_arg)."""
    found: list[str] = []
    word = ""
    quoted = False
    for char in line:
        if char == '"':
            quoted = not quoted
        if char.isspace() and not quoted:
            if word:
                found.append(word)
            word = ""
        else:
            word += char
    return [*found, word] if word else found


def merge_cmdline(own: str, user: str) -> str:
    """``own``, the words that pykvm adds, before the user's, less those whose parameter the user sets.

    Holds for ``console=`` too, although the kernel would take several: with pykvm's first and the
    user's last, /dev/console would be the user's but the early messages would go to both.
    """
    mine = words(user)
    if "--" in mine:  # what follows is for init
        mine = mine[: mine.index("--")]
    taken = {_parameter(word) for word in mine}
    kept = [word for word in words(own) if _parameter(word) not in taken]
    return " ".join([*kept, user.strip()]).strip()


def _parameter(word: str) -> str:
    """The name before ``=``, as the kernel compares it: ``-`` and ``_`` are one (kernel/params.c)."""
    return word.strip('"').partition("=")[0].replace("-", "_")
