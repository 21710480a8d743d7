"""Sends messages over STARTTLS, as smtp-source does without it: the same dialogue, no pipelining.

usage: tls_load.py PORT SESSIONS COUNT OCTETS single|reused

Processes with threads: the TLS work is OpenSSL's, outside of Python's lock. Each connection has a
full handshake. Exits with 1 if a message was not taken.
"""
import os
import socket
import ssl
import sys
import threading

PROCESSES = 2
LINE = b"X" * 70 + b"\r\n"


def context_make() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def message_make(octets: int) -> bytes:
    head = (b"From: <from@client.test>\r\nTo: <to@sink.test>\r\nSubject: load\r\n"
            b"Message-Id: <load@client.test>\r\n\r\n")
    lines = LINE * (octets // len(LINE)) + b"X" * max(0, octets % len(LINE) - 2) + b"\r\n"
    return head + lines + b".\r\n"


def command(connection: socket.socket, line: bytes, wanted: bytes) -> None:
    if line:
        connection.sendall(line)
    text = connection.recv(4096)
    while not text.endswith(b"\n") or text[text.rfind(b"\n", 0, -1) + 4:][:1] == b"-":
        part = connection.recv(4096)
        if not part:
            raise OSError(f"closed after {text!r}")
        text += part
    if not text.startswith(wanted):
        raise OSError(f"to {line[:40]!r}: {text!r}")


def session(port: int, count: int, message: bytes, context: ssl.SSLContext) -> None:
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    command(connection, b"", b"220")
    command(connection, b"EHLO client.test\r\n", b"250")
    command(connection, b"STARTTLS\r\n", b"220")
    with context.wrap_socket(connection) as secure:
        command(secure, b"EHLO client.test\r\n", b"250")
        for _ in range(count):
            command(secure, b"MAIL FROM:<from@client.test>\r\n", b"250")
            command(secure, b"RCPT TO:<to@sink.test>\r\n", b"250")
            command(secure, b"DATA\r\n", b"354")
            command(secure, message, b"250")
        command(secure, b"QUIT\r\n", b"221")


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]


def work(port: int, counts: list[int], octets: int, reuse: bool) -> int:
    """Exit status of one process, with a thread for each of `counts`."""
    context, message, failures = context_make(), message_make(octets), []

    def run(count: int) -> None:
        try:
            for part in [count] if reuse else [1] * count:
                session(port, part, message, context)
        except OSError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=run, args=(count,)) for count in counts if count > 0]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in failures[:3]:
        print(f"tls_load: {text}", file=sys.stderr, flush=True)
    return 1 if failures else 0


def main() -> int:
    port, sessions, count, octets = map(int, sys.argv[1:5])
    reuse = sys.argv[5] == "reused"
    counts = shares(count, sessions)
    children = []
    for i in range(PROCESSES):
        child = os.fork()
        if child == 0:
            os._exit(work(port, counts[i::PROCESSES], octets, reuse))
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return 0 if not any(statuses) else 1


if __name__ == "__main__":
    sys.exit(main())
