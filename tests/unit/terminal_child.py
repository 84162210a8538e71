"""What runs at a terminal in test_terminal_raw.py: the least machine that has one, and two shells.

``machine`` prints back in brackets what is typed and does on signals what pykvm does.
``parent`` starts a machine and waits, ``grandparent`` starts a parent and outlives it.
``shell`` starts a machine in the background and moves it to the foreground when told to (by a line
on descriptor 3), as a shell with job control does.
"""

import os
import signal
import subprocess
import sys

from doubles_loop import Guest, Loop

from pykvm.terminal.standard import Terminal

SIGNALS = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGTSTP, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2),
}
MACHINE = [sys.executable, __file__, "machine"]


class Echo(Guest):
    def receive(self, data: bytes) -> int:
        for byte in b"[" + data + b"]":
            self.put(byte)
        return len(data)

    def break_in(self) -> None:
        for byte in b"<break>":
            self.put(byte)


def machine() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def end(signum: int) -> None:
        os.kill(os.getpid(), signum)

    with Loop() as loop:
        terminal = Terminal(loop, on_stop=lambda: end(signal.SIGINT), on_hangup=lambda: end(signal.SIGHUP))
        guest = Echo(loop, terminal)
        try:
            with loop.lock:
                terminal.start()
            guest.print(b"machine %d\r\n" % os.getpid())
            while True:
                signum = signal.sigwait(SIGNALS)
                if signum == signal.SIGTSTP:
                    terminal.suspend()
                    os.kill(os.getpid(), signal.SIGSTOP)
                elif signum == signal.SIGCONT:
                    terminal.resume()
                elif signum == signal.SIGUSR1:
                    guest.print(b"tick\r\n")
                elif signum == signal.SIGUSR2:
                    raise SystemExit(70)
                else:
                    return 128 + signum
        finally:
            loop.stop()
            terminal.drain(1)
            terminal.close()
            try:
                os.waitpid(-1, os.WNOHANG)
                os.write(2, b"a process is left\r\n")
            except ChildProcessError:
                os.write(2, b"closed\r\n")


def parent() -> int:
    return subprocess.run(MACHINE, check=False).returncode


def grandparent() -> int:
    subprocess.run([*MACHINE[:-1], "parent"], check=False)
    signal.pause()
    return 0


def shell() -> int:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # as a shell does, to take the terminal back
    child = subprocess.Popen(
        MACHINE, process_group=0, preexec_fn=lambda: signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    )
    with open(3, buffering=1) as orders:
        for order in orders:
            os.tcsetpgrp(0, os.getpgrp() if order == "bg\n" else child.pid)
            if order == "cont\n":
                os.kill(child.pid, signal.SIGCONT)
            os.write(2, f"did {order.strip()};".encode())
    return child.wait()


ROLES = {"machine": machine, "parent": parent, "grandparent": grandparent, "shell": shell}

if __name__ == "__main__":
    sys.exit(ROLES[sys.argv[1]]())
