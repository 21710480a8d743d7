"""Runs a program with something taken away from it: descriptors, io_uring, the core file.

usage: confined.py [--descriptors N] [--refuse-io-uring ERRNO] PROGRAM [ARGUMENT]...
"""
import argparse
import ctypes
import os
import resource
import struct
import sys

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
CAP_SYS_RESOURCE = 24
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
IO_URING_SETUP = 425  # the same number on every architecture


class Program(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(*arguments) -> None:
    if LIBC.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}")


def refuse_io_uring(error: int) -> None:
    """io_uring_setup() fails with this errno, as a container's seccomp profile makes it."""
    code = b"".join(struct.pack("HBBI", *row) for row in (
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW)))
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(code) // 8, code)))


def limit_descriptors(most: int) -> None:
    """Root could raise it again: after exec its bounding set does not allow that any more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int)
    parser.add_argument("--refuse-io-uring", type=int, metavar="ERRNO")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.descriptors:
        limit_descriptors(arguments.descriptors)
    if arguments.refuse_io_uring:
        refuse_io_uring(arguments.refuse_io_uring)
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    sys.exit(main())
