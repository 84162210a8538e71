"""A console on a socket that one program at a time connects to (``to: unix:PATH``)."""

from __future__ import annotations

import os
import select
import stat

from pykvm.errors import HostError, InputError
from pykvm.terminal.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from pykvm.terminal.faces import Loop


class UnixConsole(Console):
    """Listens at ``path``. Without a client, what the guest prints is dropped, as on a loose cable."""

    def __init__(self, loop: Loop, path: str) -> None:
        super().__init__(loop)
        self.path = self.where = path
        self._loop = loop
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None  # of the socket's file
        self._client: int | None = None  # the output's descriptor, while somebody is there
        self._client_listens_only = False
        self.input.on_end = self._input_ended
        self.output.on_lost = self._output_lost

    def start(self) -> None:
        import socket  # late: 10 ms, for this kind of console only

        _remove_dead_socket(self.path)
        self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        try:
            os.fchmod(listener.fileno(), 0o600)  # a console is often a root shell: for its owner only
            listener.bind(self.path)
            listener.listen()
            self._identity = _identity(self.path)
        except OSError as error:
            self.close()
            raise InputError(
                f"cannot listen here: {error.strerror or error}",
                where=self.path,
                remedy="choose a short path in a folder that you may write",
            ) from error
        self._loop.add(listener.fileno(), on_readable=self._accept)

    def close(self) -> None:
        super().close()
        self._client = None
        if self._listener is None:
            return
        if self._identity is not None:
            self._loop.remove(self._listener.fileno())
            try:
                if _identity(self.path) == self._identity:  # not another's, put in its place
                    os.unlink(self.path)
            except OSError:
                pass
        self._listener.close()
        self._listener = self._identity = None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:  # it left again, or we are out of descriptors
            return
        if self._client is not None:
            if not self._client_listens_only and not self._client_left():
                client.close()  # one at a time
                return
            self._hang_up()
        client.setblocking(False)
        self._client_listens_only = False
        self._client = client.detach()
        self.output.connect(self._client)
        self.input.connect(os.dup(self._client))

    def _input_ended(self) -> None:
        """The client left, or it only said its last word and still listens (``echo … | nc``)."""
        self._client_listens_only = True
        if self._client_left():
            self._hang_up()

    def _client_left(self) -> bool:
        if self._client is None:
            return False
        poll = select.poll()
        poll.register(self._client, 0)  # POLLHUP and POLLERR are told unasked
        return bool(poll.poll(0))

    def _output_lost(self, _: OSError) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        self._client = None
        self.output.disconnect()
        self.output.lost = None  # the next client will do
        self.input.disconnect()


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_dead_socket(path: str) -> None:
    """Remove the socket that a dead process left at ``path``; an error if anything else is there."""
    import socket  # late, as above

    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InputError("is there already and is no socket", where=path, remedy="choose another path")
    except OSError:  # nothing is there, or bind will say why not
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:  # EAGAIN: somebody listens who is busy
            pass
    raise HostError("another process listens here", where=path, remedy="stop it, or choose another path")
