"""A spool whose disk is full, read-only, broken or gone: what was answered 250 is delivered, the
rest is refused for the time being, and cut-through needs no disk.

Not here: clocks that jump. CLOCK_REALTIME cannot be moved for one process; the queue's unit tests
pass the time in.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from harness import (BINARY, Client, Default, Relay, Reset, Stall, SystemTest, find_tool,
                     seconds_max, stuffed, wait_for)
from test_spool import FALL_BACK, RETRY, SPOOL, SpoolTest
from traffic import deliver, letter

MIB = 1 << 20
# A disk of 24 MiB: 8 segments of 1 MiB for its one worker, and a floor of about that.
DISK = "24m"


def run(*command: str) -> None:
    """A skip where it cannot be done: not root, or in a container."""
    done = subprocess.run([find_tool(command[0]), *command[1:]], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise unittest.SkipTest(f"{' '.join(command)}: {done.stderr.strip()}")


class FaultTest(SpoolTest):

    def mounted(self, *arguments: str) -> pathlib.Path:
        """mount ARGUMENTS on a new folder, until the test is over."""
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can mount")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-mount-"))
        self.addCleanup(folder.rmdir)
        run("mount", *arguments, str(folder))
        self.addCleanup(subprocess.run, ["umount", "-l", str(folder)], check=False,
                        capture_output=True)
        return folder

    def disk(self, size: str = DISK) -> pathlib.Path:
        return self.mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def on_disk(self, hop, folder: pathlib.Path, delivery=None, changes=None, **options) -> Relay:
        config = {"spool": {**RETRY, "directory": str(folder / "spool")}}
        config.update(changes or {})
        return self.edge(hop, delivery or SPOOL, config, **options)

    def give(self, where: Relay, data: bytes, size: bool = False):
        """One message; the last reply, whichever command it is to."""
        with Client(where) as client:
            client.ehlo()
            client.envelope(parameters=f" SIZE={len(data)}" if size else "")
            reply = client.command("DATA")
            if reply == 354:
                client.send(stuffed(data))
                reply = client.reply()
            self.assertIn(reply.code // 100, (2, 4), reply)
            return reply

    def give_until_refused(self, relay: Relay, octets: int, most: int, size: bool = False):
        """Until the first 4xx. Returns it, and the subjects of what was answered 250."""
        kept = []
        for number in range(most):
            subject = f"number {number:05}"
            reply = self.give(relay, letter(octets, subject), size)
            if reply != 250:
                return reply, kept
            kept.append(subject)
        self.fail(f"{most} messages of {octets} octets, and not one was refused")

    def assert_arrived(self, hop, kept: list[str]) -> None:
        hop.wait_messages(len(kept), seconds=60)
        found = [message.data.split(b"Subject: ", 1)[1].split(b"\r\n", 1)[0].decode()
                 for message in hop.messages]
        self.assertEqual(sorted(found), sorted(kept))

    def wait_taken(self, relay: Relay, octets: int = 300) -> None:
        wait_for(lambda: self.give(relay, letter(octets, "again")) == 250, 30, "250 again")

    def fill(self, folder: pathlib.Path, leave: int = 0) -> pathlib.Path:
        """Ballast: no octet is free then."""
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    space = os.statvfs(folder)
                    step = min(MIB, space.f_bavail * space.f_frsize - leave)
                    if step <= 0 or file.write(bytes(step)) < step:
                        break
            except OSError:
                pass
        return ballast


class Full(FaultTest):

    def refuses_delivers_recovers(self, octets: int, size: bool = False) -> None:
        hop = self.next_hop()
        hop.refuse()
        relay = self.on_disk(hop, self.disk())
        reply, kept = self.give_until_refused(relay, octets, 24 * MIB // octets + 10, size)
        self.assertEqual(reply, 452)
        self.assertEqual(reply.enhanced, "4.3.1")
        self.assertGreater(len(kept) * octets, 4 * MIB, "refused far too early")
        self.assertEqual(self.queued(relay), len(kept))
        relay.wait_event("spool_full")
        self.assertGreaterEqual(relay.counter("refusals_spool_full"), 1)
        hop.listen()
        self.assert_arrived(hop, kept)
        wait_for(lambda: self.queued(relay) == 0)
        self.wait_taken(relay, octets)
        relay.wait_event("spool_room")
        hop.wait_messages(len(kept) + 1)
        relay.stop()
        self.assertEqual(relay.events("spool_error"), [])

    def test_small(self):
        self.refuses_delivers_recovers(20_000)

    def test_large(self):
        """Bodies in files of their own, of declared and of unknown size."""
        self.refuses_delivers_recovers(900_000)
        self.refuses_delivers_recovers(900_000, size=True)

    def test_over_a_restart(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.on_disk(hop, self.disk())
        _, kept = self.give_until_refused(relay, 100_000, 240)
        relay.kill()
        relay.start()
        self.assertEqual(self.give(relay, letter(100_000)), 452)
        hop.listen()
        self.assert_arrived(hop, kept)
        self.wait_taken(relay)

    def test_fills_while_a_message_comes(self):
        """By others, after the 354."""
        for octets in (3000, 200_000, 3_000_000):
            for delivery in (SPOOL, FALL_BACK):
                with self.subTest(octets=octets, delivery=delivery):
                    self.fills_while_a_message_comes(octets, delivery)

    def fills_while_a_message_comes(self, octets: int, delivery: dict) -> None:
        hop, folder = self.next_hop(), self.disk()
        relay = self.on_disk(hop, folder, delivery)
        wire = stuffed(letter(octets, "number first"))
        with self.client(relay) as client:
            client.ehlo()
            client.envelope()
            client.data(wire[:octets // 2])
            ballast = self.fill(folder)
            client.send(wire[octets // 2:])
            first = client.reply()
        self.assertIn(first.code, (250, 451, 452), first)
        kept = ["number first"] if first == 250 else []
        if delivery == FALL_BACK:
            self.assertEqual(first, 250, "its next hop is well")
        elif octets > 2 * MIB:
            self.assertEqual(first.code // 100, 4, "there was no room for it")
        for number in range(8):
            subject = f"number {number}"
            if self.give(relay, letter(400_000, subject)) == 250:
                kept.append(subject)
        if delivery == FALL_BACK:
            self.assertEqual(len(kept), 9)
        self.assert_arrived(hop, kept)
        wait_for(lambda: self.queued(relay) == 0)
        ballast.unlink()
        self.wait_taken(relay)
        wait_for(lambda: not list((folder / "spool").glob("*.body")))
        relay.stop()

    def test_ending_with_no_room(self):
        """SIGTERM, and a start, with a disk that is full to the last octet."""
        hop, folder = self.next_hop(), self.disk()
        hop.refuse()
        relay = self.on_disk(hop, folder)
        kept = [f"number {number}" for number in range(5)]
        for subject in kept:
            self.assertEqual(self.give(relay, letter(50_000, subject)), 250)
        ballast = self.fill(folder)
        relay.stop()
        relay.start()
        self.assertEqual(self.give(relay, letter(50_000)).code, 452)
        hop.listen()
        self.assert_arrived(hop, kept)
        ballast.unlink()
        self.wait_taken(relay)

    def test_files_may_not_grow(self):
        """RLIMIT_FSIZE: every write behind it fails, and raises SIGXFSZ."""
        prlimit = shutil.which("prlimit")
        if prlimit is None:
            raise unittest.SkipTest("prlimit is not installed")
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL, wrapper=[prlimit, f"--fsize={2 * MIB}", "--"])
        self.assertEqual(self.give(relay, letter(100_000, "number 0")), 250)
        self.assertEqual(self.give(relay, letter(5_000_000)).code // 100, 4)
        self.assertEqual(self.give(relay, letter(5_000_000), size=True).code // 100, 4)
        self.assertEqual(self.give(relay, letter(100_000, "number 1")), 250)
        self.assert_arrived(hop, ["number 0", "number 1"])


class Gone(FaultTest):

    def test_removed_while_running(self):
        """An operator's accident. What was in it is gone; nothing more may be promised."""
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL)
        self.assertEqual(self.give(relay, letter(300, "number 0")), 250)
        self.assert_arrived(hop, ["number 0"])
        wait_for(lambda: self.queued(relay) == 0)
        shutil.rmtree(relay.folder / "spool")
        wait_for(lambda: self.give(relay, letter(300)).code // 100 == 4, 10, "refused")
        for octets in (300, 300, 900_000):
            self.assertEqual(self.give(relay, letter(octets)).code // 100, 4)
        relay.stop()
        relay.start()
        self.assertEqual(self.give(relay, letter(300)), 250)

    def test_removed_does_not_matter_to_cut_through(self):
        hop = self.next_hop()
        relay = self.edge(hop, FALL_BACK)
        shutil.rmtree(relay.folder / "spool")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            self.assertEqual(self.give(relay, letter(300)), 250)
            self.assertEqual(self.give(relay, letter(900_000)), 250)
            time.sleep(0.1)
        hop.on("END", "451 4.3.0 not now")
        self.assertEqual(self.give(relay, letter(300)), 451)
        self.assertEqual(self.give(relay, letter(900_000)), 451)
        relay.stop()

    def test_names_cannot_be_made(self):
        """No new file can be made for a while: an immutable folder."""
        image = self.image()
        folder = self.mounted("-o", "loop", str(image))
        hop = self.next_hop()
        hop.refuse()
        relay = self.on_disk(hop, folder)
        self.assertEqual(self.give(relay, letter(300, "number first")), 250)
        run("chattr", "+i", str(folder / "spool"))
        reply, kept = self.give_until_refused(relay, 200_000, 100)
        self.assertEqual(reply.code // 100, 4)
        self.assertEqual(self.give(relay, letter(900_000)).code // 100, 4)
        hop.listen()
        self.assert_arrived(hop, ["number first", *kept])
        run("chattr", "-i", str(folder / "spool"))
        self.wait_taken(relay)
        self.wait_taken(relay, 900_000)
        wait_for(lambda: self.queued(relay) == 0)

    def image(self, megabytes: int = 40, *options: str, where: pathlib.Path | None = None):
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can mount")
        path = (where or self.folder()) / "image"
        with path.open("wb") as file:
            file.truncate(megabytes * MIB)
        run("mkfs.ext4", "-q", "-F", *options, str(path))
        return path


class ReadOnly(Gone):
    """The file system turns read-only under a running relay, as ext4 does after an error. It can
    only be made writable again by mounting it anew, and so with a restart."""
    test_removed_while_running = test_removed_does_not_matter_to_cut_through = None
    test_names_cannot_be_made = None

    def turned(self, delivery):
        image = self.image()
        folder = self.mounted("-o", "loop", str(image))
        hop = self.next_hop()
        hop.refuse()
        relay = self.on_disk(hop, folder, delivery)
        kept = [f"number {number}" for number in range(5)]
        for subject in kept:
            self.assertEqual(self.give(relay, letter(30_000, subject)), 250)
        self.assertEqual(self.give(relay, letter(900_000, "number large")), 250)
        run("mount", "-o", "remount,abort", str(folder))
        return hop, folder, image, relay, kept + ["number large"]

    def again(self, folder, image, relay) -> None:
        relay.stop()
        # The ring of the process that ended lets go of its files a little later.
        wait_for(lambda: subprocess.run(["umount", str(folder)], check=False,
                                        capture_output=True).returncode == 0, 20, "umount")
        subprocess.run(["fsck.ext4", "-fp", str(image)], check=False, capture_output=True)
        run("mount", "-o", "loop", str(image), str(folder))
        relay.start()

    def test_stored_first(self):
        hop, folder, image, relay, kept = self.turned(SPOOL)
        for octets in (300, 100_000, 900_000):
            reply = self.give(relay, letter(octets))
            self.assertEqual(reply.code // 100, 4, f"{octets}: {reply}")
        hop.listen()
        self.assert_arrived(hop, kept)  # what is there can be read
        self.again(folder, image, relay)
        self.wait_taken(relay)
        wait_for(lambda: self.queued(relay) == 0)

    def test_cut_through_goes_on(self):
        hop, folder, image, relay, kept = self.turned(FALL_BACK)
        self.assertEqual(self.give(relay, letter(300)).code // 100, 4)
        hop.listen()
        self.assert_arrived(hop, kept)
        for octets in (300, 300, 900_000, 3_000_000):
            self.assertEqual(self.give(relay, letter(octets, f"well {octets}")), 250)
        hop.on("END", "451 4.3.0 not now", times=3)
        for octets in (300, 900_000):
            self.assertEqual(self.give(relay, letter(octets)), 451)
        self.again(folder, image, relay)
        hop.off()
        hop.on("END", "451 4.3.0 not now", times=1)
        self.wait_taken(relay)
        wait_for(lambda: self.queued(relay) == 0)


class Broken(Gone):
    """EIO. There is no device mapper to make it everywhere; a loop device whose backing file finds
    no room gives it as well. (With a journal: without one ext4 says that it has what it has not.)"""
    test_removed_while_running = test_removed_does_not_matter_to_cut_through = None
    test_names_cannot_be_made = None

    @seconds_max(150)
    def test_writes_fail(self):
        for delivery in (SPOOL, FALL_BACK):
            with self.subTest(delivery=delivery):
                self.writes_fail(delivery)

    def writes_fail(self, delivery) -> None:
        thin = self.disk("20m")
        image = self.image(40, where=thin)
        folder = self.mounted("-o", "loop", str(image))
        hop = self.next_hop()
        hop.refuse()
        relay = self.on_disk(hop, folder, delivery)
        kept = []
        for number in range(20):
            subject = f"number {number}"
            self.assertEqual(self.give(relay, letter(60_000, subject)), 250)
            kept.append(subject)
        self.fill(thin)
        refused = 0
        for number in range(20, 80):
            subject = f"number {number}"
            if self.give(relay, letter(200_000, subject)) == 250:
                kept.append(subject)
            else:
                refused += 1
            if refused == 5:
                break
        self.assertEqual(refused, 5, "no write failed")
        relay.wait_event("spool_error")
        self.assertEqual(self.give(relay, letter(900_000)).code // 100, 4)
        hop.listen()
        self.assert_arrived(hop, kept)
        if delivery == FALL_BACK:
            self.assertEqual(self.give(relay, letter(300)), 250)
            self.assertEqual(self.give(relay, letter(900_000)), 250)
        relay.stop()


class Moments(FaultTest):
    """Next hops that answer, or do not, while something else is under way."""

    def test_verdict_while_the_body_leaves(self):
        """The send still reads the body when the spool shall have it."""
        hop = self.next_hop(receive_buffer=4096)
        relay = self.edge(hop, {**FALL_BACK, "buffer": "16mb"},
                          {"spool": {**RETRY, "segment": "16mb"}})
        # One of them just fills the sockets, so that its last send waits.
        for octets in (1_400_000, 1_700_000, 2_000_000, 2_300_000, 2_600_000):
            for action in (["451 4.3.0 enough", Stall()], Reset):
                with self.subTest(octets=octets, action=action):
                    data, count = letter(octets), len(hop.messages)
                    hop.released.clear()
                    hop.on("BODY", action, after=1000)
                    self.assertEqual(self.give(relay, data), 250)
                    hop.release()
                    hop.wait_messages(count + 1)
                    self.assert_relayed(hop.messages[-1], data)
                    wait_for(lambda: self.queued(relay) == 0)
                    hop.off()

    def test_buffer_larger_than_a_segment(self):
        """Segments are made larger than configured, so that every record fits one."""
        hop = self.next_hop()
        relay = self.edge(hop, {**SPOOL, "buffer": "4mb"})
        for octets in (900_000, 1_000_000, 1_040_000, 2_000_000):
            self.assertEqual(self.give(relay, letter(octets)), 250)
        hop.wait_messages(4)
        wait_for(lambda: self.queued(relay) == 0)

    def test_patience_for_streams_and_several_recipients(self):
        hop = self.next_hop()
        for octets, recipients in ((900_000, ["b@example.com"]), (900, ["b@example.com",
                                                                       "c@example.com"])):
            with self.subTest(octets=octets):
                hop.released.clear()
                before = len(hop.messages)
                hop.on("END", [Stall(), Default()], times=1)
                relay = self.edge(hop, {**FALL_BACK, "patience": "300ms"})
                data = letter(octets)
                reply = deliver(relay, data, recipients=recipients)
                self.assertEqual(reply, 250)
                self.assertIn("queued as", reply.text)
                hop.release()
                hop.wait_messages(before + 1)
                wait_for(lambda relay=relay: self.queued(relay) == 0)
                self.assertEqual(len(hop.received), before + 1)
                self.assert_relayed(hop.messages[-1], data)
                self.assertEqual(hop.messages[-1].recipients, recipients)

    def test_sizes_that_nobody_declared(self):
        """What is set aside grows with the message, and is given back as it was taken: with segments
        of the usual size, and with the smallest."""
        hop = self.next_hop()
        for segment in ("64mb", "1mb"):
            for delivery in (SPOOL, FALL_BACK):
                with self.subTest(segment=segment, delivery=delivery):
                    relay = self.edge(hop, delivery, {"spool": {**RETRY, "segment": segment}})
                    for octets in (300_000, 700_000, 1_400_000, 5_000_000):
                        self.assertEqual(self.give(relay, letter(octets)), 250)
                    wait_for(lambda relay=relay: self.queued(relay) == 0)
                    relay.stop()


class Start(SystemTest):
    """A spool that cannot be used is told at start, in words, with exit status 1."""

    def refused(self, directory: str, **options) -> str:
        relay = Relay(config={"delivery": SPOOL, "spool": {"directory": directory},
                              "next_hop": {"internal": {"servers": ["127.0.0.1:9"]}}},
                      start=False)
        self.addCleanup(relay.close)
        os.chmod(relay.folder, 0o755)
        if "user" in options:
            relay.rewrite({"user": None})
        for holder in relay.holders:
            holder.close()
        done = subprocess.run([BINARY, "run", "-c", str(relay.file)], capture_output=True,
                              text=True, timeout=30, check=False, cwd="/", **options)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotIn("assertion", done.stderr)
        self.assertIn(directory, done.stderr)
        return done.stderr

    def test_in_the_way(self):
        folder = self.folder()
        (folder / "file").write_text("x")
        self.assertIn("ot a directory", self.refused(str(folder / "file")))
        self.refused(str(folder / "file" / "below"))
        self.refused(str(folder / "missing" / "below"))

    def test_not_writable(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can become another user")
        folder = self.folder()
        os.chmod(folder, 0o755)
        self.assertIn("ermission denied", self.refused(str(folder / "spool"), user=65534,
                                                       group=65534, extra_groups=[]))
        (folder / "spool").mkdir(mode=0o500)
        self.assertIn("ermission denied", self.refused(str(folder / "spool"), user=65534,
                                                       group=65534, extra_groups=[]))

    def test_read_only(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can mount")
        folder = self.folder()
        run("mount", "-t", "tmpfs", "-o", "size=16m,ro", "tmpfs", str(folder))
        self.addCleanup(subprocess.run, ["umount", "-l", str(folder)], check=False)
        self.assertIn("ead-only", self.refused(str(folder / "spool")))
        self.assertIn("ead-only", self.refused(str(folder)))
