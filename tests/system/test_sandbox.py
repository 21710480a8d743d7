"""The user that the relay becomes, and what the kernel holds it to. What it cannot do is proved from inside by
tests/unit/test_sandbox.c; here: that it holds for every thread, and that the relay does all its work under it."""
import errno
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys

from harness import (BINARY, SLOW, Relay, SystemTest, certificates, is_sanitized, missing, wait_for)
from traffic import LETTER, deliver, letter

CONFINED = str(pathlib.Path(__file__).with_name("confined.py"))
SPOOL = {"delivery": {"on_defer": "spool"}, "spool": {"directory": "spool", "retry": ["1s"]}}


def threads(relay: Relay) -> dict[str, dict[str, str]]:
    """Thread id and name -> the rows of its status. Without the kernel's own, which do what a ring was asked
    with the rights of the asker and have none to use."""
    found = {}
    for task in pathlib.Path(f"/proc/{relay.pid}/task").iterdir():
        rows = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        if not rows["Name"].strip().startswith("iou-"):
            found[f"{task.name} {rows['Name'].strip()}"] = {key: value.split() for key, value in rows.items()}
    return found


class Sandboxed(SystemTest):

    def texts(self, relay: Relay) -> str:
        return "\n".join(event["text"] for event in relay.events("plain"))

    def says(self, relay: Relay, text: str) -> None:
        wait_for(lambda: text in self.texts(relay), 10, f"the log says {text!r}")

    def check_threads(self, relay: Relay, user: int) -> None:
        found = threads(relay)
        names = {name.split(" ", 1)[1] for name in found}
        self.assertLessEqual({"log", "worker-0"}, names)
        for name, rows in found.items():
            with self.subTest(thread=name):
                self.assertEqual(rows["Uid"], [str(user)] * 4)
                for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                    if not is_sanitized():
                        self.assertEqual(int(rows[kind][0], 16), 0, kind)
                self.assertEqual(rows["NoNewPrivs"], ["0" if is_sanitized() else "1"])
                self.assertEqual(rows["Seccomp"], ["0" if is_sanitized() else "2"])


class AsRoot(Sandboxed):

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            missing("these tests start the relay as root")
        self.nobody = pwd.getpwnam("nobody")

    def dropped(self, hop, config: dict | None = None, *, start: bool = True, **options) -> Relay:
        """A relay with `user: nobody`, in a folder that nobody may write."""
        relay = Relay(hop, {**(config or {}), "user": "nobody"}, start=False, **options)
        self.addCleanup(self._end, relay)
        os.chown(relay.folder, self.nobody.pw_uid, self.nobody.pw_gid)
        return relay.start() if start else relay

    def test_every_thread(self):
        hop = self.next_hop()
        relay = self.dropped(hop, {**SPOOL, "workers": 2})
        self.check_threads(relay, self.nobody.pw_uid)
        for name, rows in threads(relay).items():
            with self.subTest(thread=name):
                self.assertEqual(rows["Gid"], [str(self.nobody.pw_gid)] * 4)
                self.assertLessEqual(set(rows["Groups"]), {str(self.nobody.pw_gid)})
                if not is_sanitized():
                    self.assertEqual(int(rows["CapBnd"][0], 16), 0)
        self.assertEqual(relay.metrics()['ringpost_sandbox{part="user"}'], 1)
        self.assertEqual(deliver(relay), 250)
        self.assert_relayed(hop.messages[0], LETTER)

    def test_a_port_of_root(self):
        for port in range(1023, 600, -1):
            with socket.socket() as holder:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    holder.bind(("127.0.0.1", port))
                    break
                except OSError:
                    continue
        relay = self.dropped(self.next_hop(), {"listen": {"smtp": {"address": f"127.0.0.1:{port}"}}})
        self.check_threads(relay, self.nobody.pw_uid)
        self.assertEqual(deliver(port), 250)

    def key_of(self, relay: Relay, certificate, mode: int, owner: int) -> None:
        for name, source in (("cert.pem", certificate.certificate), ("key.pem", certificate.key)):
            shutil.copyfile(source, relay.folder / (name + ".new"))
            os.chmod(relay.folder / (name + ".new"), mode)
            os.chown(relay.folder / (name + ".new"), owner, owner)
            os.replace(relay.folder / (name + ".new"), relay.folder / name)

    def test_keys(self):
        """Root reads them at the start; a reload is the user's, and says so when it may not."""
        config = {"tls": {"certificate": "cert.pem", "key": "key.pem"}}
        relay = self.dropped(self.next_hop(), config, tls="starttls", start=False)
        self.key_of(relay, certificates().localhost, 0o600, 0)
        relay.start()
        self.says(relay, "the user nobody may not read")
        relay.reload()
        self.says(relay, "the certificates in use stay")
        self.assertEqual(relay.metrics()["ringpost_config_last_reload_successful"], 0)
        client = self.client(relay)
        client.ehlo()
        client.starttls()
        self.key_of(relay, certificates().localhost, 0o600, self.nobody.pw_uid)
        relay.reload()
        self.assertEqual(relay.metrics()["ringpost_config_last_reload_successful"], 1)
        client = self.client(relay)
        client.ehlo()
        client.starttls()

    def test_spool(self):
        """Stored, killed, recovered, delivered: as the user."""
        hop = self.next_hop()
        hop.on("END", "451 4.3.0 later")
        relay = self.dropped(hop, SPOOL)
        large = letter(400000)
        self.assertEqual([deliver(relay), deliver(relay, large)], [250, 250])
        owners = {path.stat().st_uid for path in (relay.folder / "spool").iterdir()}
        self.assertEqual(owners, {self.nobody.pw_uid})
        relay.kill()
        hop.off("END")
        relay.start()
        wait_for(lambda: len(hop.messages) == 2, 30, "both are delivered")
        self.assertEqual(sorted(len(one.data) > 100000 for one in hop.messages), [False, True])

    def test_spool_of_root(self):
        """What root kept is the user's from the first start as that user."""
        hop = self.next_hop()
        hop.on("END", "451 4.3.0 later")
        relay = self.relay(hop, {**SPOOL, "user": "root"})
        self.says(relay, "sandbox: user root")
        self.check_threads(relay, 0)
        self.assertEqual(deliver(relay), 250)
        relay.stop()
        self.assertEqual((relay.folder / "spool").stat().st_uid, 0)
        hop.off("END")
        os.chown(relay.folder, self.nobody.pw_uid, self.nobody.pw_gid)
        relay.rewrite({"user": "nobody"})
        relay.start()
        wait_for(lambda: len(hop.messages) == 1, 30, "it is delivered")
        self.check_threads(relay, self.nobody.pw_uid)
        self.assertEqual((relay.folder / "spool").stat().st_uid, self.nobody.pw_uid)

    def test_root_without_capabilities(self):
        """A root that stays is held to file modes like anybody else: said at the start, not at the first message."""
        relay = Relay(self.next_hop(), {**SPOOL, "user": "root"}, start=False)
        self.addCleanup(relay.close)
        (relay.folder / "spool").mkdir(mode=0o700)
        os.chown(relay.folder / "spool", self.nobody.pw_uid, self.nobody.pw_gid)
        if is_sanitized():
            return
        with self.assertRaisesRegex(AssertionError, "without root's capabilities"):
            relay.start()

    def test_log_and_statistics(self):
        relay = self.dropped(self.next_hop(), {
            "log": {"target": "mail.log"}, "stats": {"address": ["unix:stats.sock", "127.0.0.1:0"]}, **SPOOL})
        log = relay.folder / "mail.log"
        self.assertEqual(log.stat().st_uid, self.nobody.pw_uid)
        log.rename(relay.folder / "mail.log.1")
        relay.signal(signal.SIGHUP)
        wait_for(log.exists, 10, "the log is opened again")
        self.assertEqual(deliver(relay), 250)
        wait_for(lambda: relay.events("message"), 10, "the new file has lines")
        with socket.create_connection(("127.0.0.1", relay.ports["stats"])) as scrape:
            scrape.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            self.assertIn(b"200", scrape.recv(1000))
        relay.stop()
        self.assertFalse((relay.folder / "stats.sock").exists(), "removed at the stop")


class Refusals(SystemTest):
    TEXT = """hostname: edge.test
listen: { smtp: { address: "127.0.0.1:%d" } }
accept: { networks: [ "127.0.0.0/8" ] }
next_hop: { internal: { servers: [ "127.0.0.1:9" ], tls: none } }
route: { "*": internal }
spool: { directory: %s }
log: { target: %s }
user: %s
"""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            missing("these tests start the relay as root")

    def refused(self, text: str, *, user: str, spool: str = "spool", log: str = "stderr", start_as: str = "root"):
        folder = self.folder()
        os.chmod(folder, 0o755)
        shutil.copy(BINARY, folder / "ringpost")
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
        (folder / "ringpost.yaml").write_text(self.TEXT % (port, spool, log, user))
        who = pwd.getpwnam(start_as)
        # A process that changed its user cannot be stopped by its own leak checker.
        environment = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        done = subprocess.run([str(folder / "ringpost"), "run", "-c", "ringpost.yaml"], cwd=folder, user=who.pw_uid,
                              group=who.pw_gid, extra_groups=[], capture_output=True, text=True,
                              timeout=20 * SLOW, check=False, env=environment)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(text, done.stderr)

    def test_no_such_user(self):
        self.refused("this system knows no user no-such-user-here", user="no-such-user-here")

    def test_somebody_else(self):
        self.refused("cannot become daemon: only root can", user="daemon", start_as="nobody")

    def test_no_place_for_a_spool(self):
        self.refused("cannot hand over the spool /proc/no/spool", user="nobody", spool="/proc/no/spool")

    def test_no_place_for_a_log(self):
        """Root could, but not the user at the next rotation: said at once."""
        self.refused("cannot write the log to ", user="nobody", log="mail.log")


class Switch(Sandboxed):

    def test_on_by_default(self):
        hop = self.next_hop()
        relay = self.relay(hop, SPOOL)
        self.check_threads(relay, os.geteuid())
        metrics = relay.metrics()
        self.assertEqual(metrics['ringpost_sandbox{part="rings"}'], 1)
        if is_sanitized():
            self.says(relay, "missing: not in a build with sanitizers")
            return
        self.says(relay, "; seccomp; rings restricted")
        self.assertEqual(metrics['ringpost_sandbox{part="seccomp"}'], 1)
        if "Landlock" not in os.environ.get("RINGPOST_TEST_LACKS", ""):
            self.assertGreaterEqual(metrics['ringpost_sandbox{part="landlock"}'], 1)

    def test_off(self):
        relay = self.relay(self.next_hop(), {"sandbox": "off"})
        self.says(relay, "missing: sandbox: off")
        for name, rows in threads(relay).items():
            with self.subTest(thread=name):
                self.assertEqual([rows["NoNewPrivs"], rows["Seccomp"]], [["0"], ["0"]])
        self.assertEqual(relay.metrics()['ringpost_sandbox{part="seccomp"}'], 0)
        self.assertEqual(deliver(relay), 250)

    def test_log(self):
        relay = self.relay(self.next_hop(), {"sandbox": "log"})
        if not is_sanitized():
            self.says(relay, "missing: sandbox: log refuses nothing")
            self.assertEqual(relay.metrics()['ringpost_sandbox{part="landlock"}'], 0)
        self.assertEqual(deliver(relay), 250)

    def test_kernel_without_landlock(self):
        for error, text in ((errno.ENOSYS, "this kernel has no Landlock"),
                            (errno.EOPNOTSUPP, "this kernel does not use Landlock (boot parameter lsm=)"),
                            (errno.EPERM, "a container's profile refuses Landlock")):
            with self.subTest(errno=error):
                relay = self.relay(self.next_hop(),
                                   wrapper=[sys.executable, CONFINED, "--refuse-landlock", str(error)])
                if not is_sanitized():
                    self.says(relay, f"no Landlock; seccomp; rings restricted; missing: {text}")
                    self.assertEqual(relay.metrics()['ringpost_sandbox{part="seccomp"}'], 1)
                self.assertEqual(deliver(relay), 250)


class Renewal(Sandboxed):
    """Landlock's rules are for files that exist: what is renewed must be allowed by its directory."""

    def setUp(self):
        super().setUp()
        self.one, self.two = certificates().edge_a, certificates().edge_b

    def name(self, relay: Relay) -> bytes:
        client = self.client(relay)
        client.ehlo()
        client.starttls(certificates().client_context(verify=False))
        return client.socket.getpeercert(binary_form=True)

    def start(self, certificate: str, key: str, place) -> Relay:
        relay = Relay(self.next_hop(), {"tls": {"certificate": certificate, "key": key}}, tls="starttls",
                      start=False)
        self.addCleanup(self._end, relay)
        place(relay.folder, self.one)
        return relay.start()

    def check(self, relay: Relay, place) -> None:
        before = self.name(relay)
        place(relay.folder, self.two)
        relay.reload()
        wait_for(lambda: self.name(relay) != before, 10, "the new certificate is in use:\n" + self.texts(relay))

    def test_renamed(self):
        def place(folder, certificate):
            for name, source in (("cert.pem", certificate.certificate), ("key.pem", certificate.key)):
                shutil.copyfile(source, folder / "new")
                os.replace(folder / "new", folder / name)

        self.check(self.start("cert.pem", "key.pem", place), place)

    def test_links_into_an_archive(self):
        """As certbot does it: live/NAME/cert.pem -> ../../archive/NAME/cert2.pem."""
        def place(folder, certificate):
            live, archive = folder / "live" / "a", folder / "archive" / "a"
            live.mkdir(parents=True, exist_ok=True)
            archive.mkdir(parents=True, exist_ok=True)
            number = len(list(archive.iterdir()))
            for name, source in (("cert", certificate.certificate), ("key", certificate.key)):
                shutil.copyfile(source, archive / f"{name}{number}.pem")
                (folder / "link").symlink_to(f"../../archive/a/{name}{number}.pem")
                os.replace(folder / "link", live / f"{name}.pem")

        self.check(self.start("live/a/cert.pem", "live/a/key.pem", place), place)

    def test_a_directory_that_is_a_link(self):
        """As a mounted secret is: tls/cert.pem -> ..data/cert.pem, tls/..data -> ..2."""
        def place(folder, certificate):
            tls = folder / "tls"
            tls.mkdir(exist_ok=True)
            number = len(list(tls.iterdir()))
            (tls / f"..{number}x").mkdir()
            for name, source in (("cert.pem", certificate.certificate), ("key.pem", certificate.key)):
                shutil.copyfile(source, tls / f"..{number}x" / name)
                if not (tls / name).is_symlink():
                    (tls / name).symlink_to(f"..data/{name}")
            (folder / "link").symlink_to(f"..{number}x")
            os.replace(folder / "link", tls / "..data")

        self.check(self.start("tls/cert.pem", "tls/key.pem", place), place)
