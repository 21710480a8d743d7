"""Makes the certificates that system tests need, by openssl, once for each run of the tests.

Every set has its own authorities, so that nothing that a test trusts is worth anything elsewhere.
"""
import atexit
import contextlib
import datetime
import fcntl
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
from typing import NamedTuple

EXTENSIONS = """basicConstraints = critical, CA:{ca}
keyUsage = critical, {usage}
subjectKeyIdentifier = hash
{names}"""


class Certificate(NamedTuple):
    """PEM files; `names` is what the certificate is for."""
    certificate: str
    key: str
    names: tuple[str, ...]

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def der(self) -> bytes:
        """What a client sees as the peer's certificate."""
        pem = pathlib.Path(self.certificate).read_text()
        first = pem[:pem.index("-----END CERTIFICATE-----") + 26]
        return ssl.PEM_cert_to_DER_cert(first)


# name: (authority, names, days it is valid)
SERVERS = {
    "localhost": ("ca", ("localhost", "127.0.0.1"), 30),
    "edge_a": ("ca", ("a.edge.test",), 30),
    "edge_b": ("ca", ("b.edge.test", "*.wild.test"), 30),
    "hop": ("ca", ("hop.test", "127.0.0.1"), 30),
    "other_name": ("ca", ("other.test",), 30),
    "expired": ("ca", ("hop.test", "127.0.0.1"), -1),
    "unknown_authority": ("other_ca", ("hop.test", "127.0.0.1"), 30),
}


class Certificates:
    """`ca` and `other_ca` are authorities (PEM files); the attributes of SERVERS are theirs."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        self.other_ca = str(folder / "other_ca.pem")
        self.localhost = self._server("localhost")
        self.edge_a = self._server("edge_a")
        self.edge_b = self._server("edge_b")
        self.hop = self._server("hop")
        self.other_name = self._server("other_name")
        self.expired = self._server("expired")
        self.unknown_authority = self._server("unknown_authority")

    def _server(self, name: str) -> Certificate:
        return Certificate(str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key"),
                           SERVERS[name][1])

    def make(self, name: str, names: tuple[str, ...], days: int = 30,
             authority: str = "ca", folder: str | None = None) -> Certificate:
        """One more, for a test of its own, into `folder`."""
        where = pathlib.Path(folder or self.folder)
        issue(self.folder, where, name, authority, names, days)
        return Certificate(str(where / f"{name}.pem"), str(where / f"{name}.key"), names)

    def client_context(self, verify: bool = True) -> ssl.SSLContext:
        """For clients of the relay."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verify:
            context.load_verify_locations(self.ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def extensions(path: pathlib.Path, names: tuple[str, ...], authority: bool) -> None:
    texts = [("IP:" if name.replace(".", "").isdigit() else "DNS:") + name for name in names]
    path.write_text(EXTENSIONS.format(
        ca="TRUE" if authority else "FALSE",
        usage="keyCertSign, cRLSign" if authority else "digitalSignature",
        names="" if authority else f"subjectAltName = {', '.join(texts)}"))


def authority_make(folder: pathlib.Path, name: str) -> None:
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
            "-days", "60", "-subj", f"/CN=ringpost tests {name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def issue(authorities: pathlib.Path, folder: pathlib.Path, name: str, authority: str,
          names: tuple[str, ...], days: int) -> None:
    request, options = folder / f"{name}.csr", folder / f"{name}.ext"
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            f"/CN={names[0]}", "-keyout", str(folder / f"{name}.key"), "-out", str(request))
    extensions(options, names, authority=False)
    sign = ["x509", "-req", "-in", str(request), "-CA", str(authorities / f"{authority}.pem"),
            "-CAkey", str(authorities / f"{authority}.key"), "-set_serial",
            str(int.from_bytes(os.urandom(8), "big")), "-extfile", str(options),
            "-out", str(folder / f"{name}.pem")]
    if days > 0:
        openssl(*sign, "-days", str(days))
        return
    # One that has expired: OpenSSL 3.4 and later refuse a negative number of days, older ones know
    # no other way.
    now = datetime.datetime.now(datetime.timezone.utc)
    dates = [(now + datetime.timedelta(days=d)).strftime("%Y%m%d%H%M%SZ") for d in (days - 2, days)]
    try:
        openssl(*sign, "-not_before", dates[0], "-not_after", dates[1])
    except RuntimeError:
        openssl(*sign, "-days", str(days))


@contextlib.contextmanager
def locked(path: pathlib.Path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folder() -> pathlib.Path:
    """Named by run.py for all its processes; else one of this process's own."""
    named = os.environ.get("RINGPOST_TEST_CACHE")
    if named:
        return pathlib.Path(named)
    folder = tempfile.mkdtemp(prefix="ringpost-certificates-")
    os.environ["RINGPOST_TEST_CACHE"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


def certificates() -> Certificates:
    folder = cache_folder()
    with locked(folder / "lock"):
        if not (folder / "done").exists():
            for name in ("ca", "other_ca"):
                authority_make(folder, name)
            for name, (authority, names, days) in SERVERS.items():
                issue(folder, folder, name, authority, names, days)
            (folder / "done").touch()
    return Certificates(folder)
