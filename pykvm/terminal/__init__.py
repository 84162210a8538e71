"""What is at the other end of a guest's serial line: this terminal, a file, a socket, a pty, nothing."""
