"""From what a machine file says of its kernel to files that can be opened."""

from __future__ import annotations

from pykvm.cache import Cache
from pykvm.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.model import KernelConfig
    from pykvm.progress import Progress

RECIPE = "recipe:"
DEBIAN = "debian:"
HOST = "host"


def resolve(kernel: KernelConfig, progress: Progress | None = None, *, yes: bool = False) -> KernelConfig:
    """``kernel`` with paths for ``debian:PACKAGE``, ``host`` and ``recipe:FOLDER``.

    What isn't in the cache yet is fetched or built, with ``progress`` (by default on a terminal only);
    ``yes`` lets root install the build tools that are missing without being asked. Raises HostError
    where the host lacks something, InputError for a recipe or package that is none.
    """
    cache = Cache()
    if kernel.image == HOST:
        from pykvm.boot.running import kernel as running_kernel

        image = running_kernel()
    elif kernel.image.startswith(DEBIAN):
        from pykvm.boot import debian

        image = debian.kernel(kernel.image.removeprefix(DEBIAN), cache, progress)
    else:
        image = _part(kernel.image, cache, progress, yes)
    return replace(
        kernel, image=image, initrd=tuple(_part(path, cache, progress, yes) for path in kernel.initrd)
    )


def _part(path: str, cache: Cache, progress: Progress | None, yes: bool) -> str:
    if not path.startswith(RECIPE):
        return path
    from pykvm.guests import recipe

    return recipe.built(path.removeprefix(RECIPE), cache, progress, yes=yes)
