"""Runs a program with something taken away from it: descriptors, io_uring, IPv6.

usage: confined.py [--descriptors N] [--refuse-io-uring ERRNO] [--refuse-landlock ERRNO]
                   [--hosts FILE] [--no-ipv6]
                   PROGRAM [ARGUMENT]...
"""
import argparse
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import sys

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
CAP_SYS_RESOURCE = 24
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
SOCKET = {"x86_64": 41, "aarch64": 198}
IO_URING_SETUP, LANDLOCK_CREATE_RULESET = 425, 444  # the same numbers on every architecture


class Program(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(*arguments) -> None:
    if LIBC.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}")


def refuse(call: int, error: int) -> None:
    """The system call fails with this errno, as a container's seccomp profile makes it."""
    code = b"".join(struct.pack("HBBI", *row) for row in (
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_EQUAL, 0, 1, call),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW)))
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(code) // 8, code)))


def refuse_ipv6() -> None:
    """No stream socket for it, as where the kernel has no IPv6; datagram sockets, by which names are
    put in order, stay: it must be tried first."""
    code = b"".join(struct.pack("HBBI", *row) for row in (
        (LOAD_WORD, 0, 0, 0),
        (JUMP_EQUAL, 0, 5, SOCKET[platform.machine()]),
        (LOAD_WORD, 0, 0, 16),  # its first argument
        (JUMP_EQUAL, 0, 3, socket.AF_INET6),
        (LOAD_WORD, 0, 0, 24),
        (JUMP_EQUAL, 0, 1, socket.SOCK_STREAM | socket.SOCK_CLOEXEC),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW)))
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(code) // 8, code)))


def replace_hosts(path: str) -> None:
    """Names are looked up in this file, by this process alone. Exit status 77: not permitted."""
    if LIBC.unshare(CLONE_NEWNS) != 0 and LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        sys.exit(77)
    if LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0 or \
            LIBC.mount(os.fsencode(path), b"/etc/hosts", None, MS_BIND, None) != 0:
        sys.exit(77)


def limit_descriptors(most: int) -> None:
    """Root could raise it again: after exec its bounding set does not allow that any more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int)
    parser.add_argument("--refuse-io-uring", type=int, metavar="ERRNO")
    parser.add_argument("--refuse-landlock", type=int, metavar="ERRNO")
    parser.add_argument("--hosts")
    parser.add_argument("--no-ipv6", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.descriptors:
        limit_descriptors(arguments.descriptors)
    if arguments.refuse_io_uring:
        refuse(IO_URING_SETUP, arguments.refuse_io_uring)
    if arguments.refuse_landlock:
        refuse(LANDLOCK_CREATE_RULESET, arguments.refuse_landlock)
    if arguments.hosts:
        replace_hosts(arguments.hosts)
    if arguments.no_ipv6:
        refuse_ipv6()
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    sys.exit(main())
