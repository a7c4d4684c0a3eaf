"""Network namespaces held by file descriptors, and the parent-death signal."""

def netns_new() -> int:
    """A file descriptor (close-on-exec) of a fresh network namespace; the calling thread stays where it is.

    Raises PermissionError without CAP_SYS_ADMIN, OSError(ENOSPC) beyond the limit of namespaces.
    """

def netns_enter(fd: int) -> int:
    """Moves the calling thread into the namespace; returns a descriptor of the one that it left (setns(2))."""

def netns_id() -> int:
    """The number (inode) of the calling thread's network namespace; 0 when /proc is absent."""

def pdeathsig(sig: int) -> None:
    """Asks for signal `sig` when the thread that created this process ends (PR_SET_PDEATHSIG)."""
