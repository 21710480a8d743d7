"""Mail for the behaviour tests: letters of a wanted size, sessions in one call, many at a time."""
import threading
from typing import Any, Callable, Iterable

from harness import Client, Relay, Reply

LETTER = b"From: a@example.net\r\nSubject: one\r\n\r\nhello\r\n.with a dot\r\n"


def letter(octets: int, subject: str = "large") -> bytes:
    """A message of exactly so many octets; its lines are numbered, some begin with a dot."""
    head = f"From: a@example.net\r\nSubject: {subject}\r\n\r\n".encode()
    rows = [b"%s%09d %s\r\n" % (b"." if row % 7 == 0 else b"", row, b"x" * 50)
            for row in range((octets - len(head)) // 62 + 1)]
    return (head + b"".join(rows))[:octets - 3].rstrip(b"\r\n").ljust(octets - 2, b"y") + b"\r\n"


def deliver(relay: Relay | int, data: bytes = LETTER, *, source: str | None = None,
            **options: Any) -> Reply:
    """One session with one message, from EHLO to QUIT."""
    with Client(relay, source=source) as client:
        client.ehlo()
        reply = client.message(data, **options)
        client.command("QUIT", 221)
        return reply


def together(jobs: Iterable[Callable[[], Any]]) -> list[Any]:
    """Runs them in threads; returns what they returned, in order; raises what one raised."""
    jobs = list(jobs)
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = jobs[index]()
        except BaseException as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True)
               for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
