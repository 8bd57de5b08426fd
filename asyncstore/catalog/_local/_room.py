"""Room for a large file on the disk, before its first byte comes. The functions here block."""

from __future__ import annotations

import errno
import os
from functools import lru_cache

__all__ = ["reserve"]

_MEMORY = {"ramfs", "tmpfs"}


def reserve(descriptor: int, size_bytes: int) -> None:
    """
    Give a file its length, and all its room where that costs nothing.

    In memory it would be zeroed first, which takes longer than to write it; so there is only a look at what is free.

    Raises:
        OSError: there is no room for it.
    """
    if _in_memory(os.fstat(descriptor).st_dev):
        room = os.fstatvfs(descriptor)
        if room.f_blocks and room.f_bavail * room.f_frsize < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, size_bytes)
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
        os.ftruncate(descriptor, size_bytes)


@lru_cache(maxsize=64)
def _in_memory(device: int) -> bool:
    """Tell whether a file system lies in memory, where room is made by zeroing it; false if that cannot be told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
            found = [line.split() for line in mounts]
    except OSError:
        return False
    return any(fields[2] == number and fields[fields.index("-") + 1] in _MEMORY for fields in found)
