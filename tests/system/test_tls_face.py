"""TLS as others see it: what sslscan finds with default settings (testssl.sh takes minutes: make
tls-face), and what no scanner of Debian 12 asks."""
import pathlib
import re
import subprocess

import tls_face
from harness import SLOW, SystemTest, find_tool


class Face(SystemTest):

    def setUp(self):
        self.kinds = {}
        for kind in ("ecdsa", "rsa"):
            self.kinds[kind] = tls_face.chain(self.folder(), kind)

    def start(self, certificate):
        return self.relay(self.next_hop(), {"listen": tls_face.LISTENERS}, certificate=certificate)

    def test_sslscan(self):
        """Finds: minimum version 1.0, "ALL" as list of ciphers, P-521 among the groups."""
        find_tool("sslscan")
        for kind, certificate in self.kinds.items():
            relay = self.start(certificate)
            for listener, starttls in (("smtp", True), ("smtps", False)):
                with self.subTest(kind=kind, listener=listener):
                    scan = tls_face.sslscan(relay.ports[listener], starttls)
                    self.assertEqual(tls_face.sslscan_findings(scan), [])

    def test_signatures(self):
        """Nothing is signed with SHA-1 or SHA-224 (RFC 9155). Finds: the library's own list."""
        for kind, algorithm in (("ecdsa", "ECDSA"), ("rsa", "RSA")):
            relay = self.start(self.kinds[kind])
            root = str(pathlib.Path(self.kinds[kind].key).with_name("root.pem"))
            for digest, good in (("SHA1", False), ("SHA224", False), ("SHA256", True)):
                with self.subTest(kind=kind, digest=digest):
                    done = subprocess.run(
                        [find_tool("openssl"), "s_client", "-connect",
                         f"127.0.0.1:{relay.ports['smtps']}", "-tls1_2", "-CAfile", root,
                         "-verify_return_error", "-verify_hostname", "localhost", "-sigalgs",
                         f"{algorithm}+{digest}", "-cipher", "ECDHE:@SECLEVEL=0"],
                        input="QUIT\r\n", capture_output=True, text=True, timeout=30 * SLOW,
                        check=False)
                    # With SECLEVEL 0 only what we send decides; the chain itself is SHA-256.
                    self.assertEqual(done.returncode == 0, good, done.stderr)
                    self.assertEqual(f"Peer signing digest: {digest}" in done.stdout, good)

    def test_tickets(self):
        """Both versions' are good for two hours. Found: those of TLS 1.3 were for two days."""
        relay = self.start(self.kinds["ecdsa"])
        for version in ("-tls1_2", "-tls1_3"):
            with self.subTest(version=version):
                done = subprocess.run(
                    [find_tool("openssl"), "s_client", "-connect",
                     f"127.0.0.1:{relay.ports['smtps']}", version, "-ign_eof"],
                    input="QUIT\r\n", capture_output=True, text=True, timeout=30 * SLOW,
                    check=False)
                hints = re.findall(r"ticket lifetime hint: (\d+) ", done.stdout)
                self.assertEqual(set(hints), {"7200"}, done.stdout)
