#!/usr/bin/env python3
"""The relay's TLS as sslscan and testssl.sh see it (make tls-face); test_tls_face.py runs sslscan.

usage: tls_face.py [--only WORD]...    e.g. --only rsa --only starttls; five minutes for all four
Default TLS settings; STARTTLS and implicit; an ECDSA and an RSA certificate from a chain of a root,
an intermediate and a server. Exit status 1: a finding that is not in ALLOWED.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

from certificates import Certificate, openssl
from harness import NextHop, Relay

# Findings of testssl.sh that we live with: id, and why.
ALLOWED = {
    "cipherlist_AVERAGE": "CBC suites for old mail servers, whose other choice is no encryption",
    "LUCKY13": "the same; the library's CBC code takes constant time",
    "DNS_CAArecord": "localhost has no such record",
    "sessionresumption_ticket": "with TLS 1.3 its openssl may be gone before our ticket comes",
}
QUIET = {"OK", "INFO", "DEBUG"}
GROUPS = {"x25519", "secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)"}
WEAK = re.compile(r"NULL|EXP|ADH|AECDH|RC4|RC2|DES|MD5|IDEA|SEED|CAMELLIA|ARIA|CCM_8|PSK|SRP|^DHE|EDH")
EXTENSIONS = """basicConstraints = critical, CA:{ca}
keyUsage = critical, {usage}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
crlDistributionPoints = URI:http://crl.example.com/ringpost.crl
{more}"""
LISTENERS = {"smtp": {"address": "127.0.0.1:0", "tls": "starttls"},
             "smtps": {"address": "127.0.0.1:0", "tls": "implicit"}}


def key_options(kind: str) -> list[str]:
    return ["rsa:2048"] if kind == "rsa" else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


def issue(folder: pathlib.Path, name: str, kind: str, subject: str, issuer: str, serial: int,
          more: str = "") -> None:
    """more: what a server's certificate has; without it, it is an authority's."""
    request, options = folder / f"{name}.csr", folder / f"{name}.ext"
    openssl("req", "-newkey", *key_options(kind), "-nodes", "-subj", f"/CN={subject}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(request))
    usage = "digitalSignature" + (", keyEncipherment" if kind == "rsa" else "") if more \
        else "keyCertSign, cRLSign"
    options.write_text(EXTENSIONS.format(ca="FALSE" if more else "TRUE", usage=usage, more=more))
    # 128-bit serial numbers, as public authorities give them.
    openssl("x509", "-req", "-in", str(request), "-CA", str(folder / f"{issuer}.pem"),
            "-CAkey", str(folder / f"{issuer}.key"), "-sha256", "-extfile", str(options),
            "-set_serial", str(int.from_bytes(os.urandom(15), "big") + serial),
            "-days", "89", "-out", str(folder / f"{name}.pem"))


def chain(folder: pathlib.Path, kind: str) -> Certificate:
    """root.pem is what clients trust."""
    openssl("req", "-x509", "-newkey", *key_options(kind), "-nodes",
            "-keyout", str(folder / "root.key"), "-out", str(folder / "root.pem"), "-days", "89",
            "-subj", "/CN=ringpost tests root", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    issue(folder, "middle", kind, "ringpost tests intermediate", "root", 1)
    issue(folder, "server", kind, "localhost", "middle", 2,
          "extendedKeyUsage = serverAuth\nsubjectAltName = DNS:localhost")
    both = folder / "chain.pem"
    both.write_text((folder / "server.pem").read_text() + (folder / "middle.pem").read_text())
    return Certificate(str(both), str(folder / "server.key"), ("localhost",))


# --- sslscan ---

def sslscan(port: int, starttls: bool) -> xml.Element:
    done = subprocess.run(
        ["sslscan", *(["--starttls-smtp"] if starttls else []), "--sni-name=localhost",
         "--xml=-", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=240, check=True)
    found = xml.fromstring(done.stdout).find("ssltest")
    assert found is not None, f"sslscan: {done.stdout}{done.stderr}"
    return found


def sslscan_findings(scan: xml.Element) -> list[str]:
    """What is not as it should be."""
    found = []
    versions = {one.get("type") + one.get("version"): one.get("enabled") == "1"
                for one in scan.findall("protocol")}
    wanted = {"ssl2": False, "ssl3": False, "tls1.0": False, "tls1.1": False, "tls1.2": True,
              "tls1.3": True}
    if versions != wanted:
        found.append(f"versions: {versions}")
    again = scan.find("renegotiation")
    if again is None or (again.get("supported") == "1" and again.get("secure") != "1"):
        found.append("insecure renegotiation")
    pressed = scan.find("compression")
    if pressed is not None and pressed.get("supported") == "1":
        found.append("compression")
    fallback = scan.find("fallback")
    if fallback is not None and fallback.get("supported") != "1":
        found.append("no TLS_FALLBACK_SCSV")
    found += [f"heartbleed: {one.get('sslversion')}" for one in scan.findall("heartbleed")
              if one.get("vulnerable") != "0"]
    found += cipher_findings(scan.findall("cipher"))
    groups = {one.get("name") for one in scan.findall("group")}
    if groups != GROUPS:
        found.append(f"groups: {sorted(groups)}")
    return found


def cipher_findings(ciphers: list[xml.Element]) -> list[str]:
    found = [f"cipher: {one.get('cipher')} {one.get('bits')} bits {one.get('strength')}"
             for one in ciphers
             if int(one.get("bits")) < 128 or WEAK.search(one.get("cipher"))
             or one.get("strength") not in ("strong", "acceptable")]
    if not ciphers:
        found.append("no ciphers were found")
    for version in ("TLSv1.2", "TLSv1.3"):
        order = [one for one in ciphers if one.get("sslversion") == version]
        names = [one.get("cipher") for one in order]
        # The best first: AEAD with forward secrecy, then without one of them, then without both.
        rank = [("GCM" in name or "CHACHA" in name, name.startswith(("ECDHE", "TLS_")))
                for name in names]
        if [one.get("status") for one in order[:1]] != ["preferred"] or rank[0] != (True, True):
            found.append(f"{version}: the first is {names[:1]}")
    return found


# --- testssl.sh ---

def testssl(port: int, starttls: bool, authority: str, out: pathlib.Path) -> list[dict]:
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if program is None:
        sys.exit("testssl.sh is not installed (packaging/deps.sh tls-face)")
    done = subprocess.run(
        [program, "--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1",
         "--jsonfile", str(out), *(["-t", "smtp"] if starttls else []), f"localhost:{port}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "ADDITIONAL_CA_FILES": authority})
    out.with_suffix(".txt").write_text(done.stdout + done.stderr)
    found = json.loads(out.read_text())
    # A scan that was cut short would find nothing.
    for needed in ("TLS1_3", "secure_client_renego", "LUCKY13", "cert_chain_of_trust", "ROBOT"):
        if not any(one["id"].startswith(needed) for one in found):
            raise RuntimeError(f"testssl.sh said nothing of {needed}: {done.stdout[-3000:]}")
    return found


def testssl_findings(found: list[dict]) -> tuple[list[str], list[str]]:
    """(those that count, those that are allowed)"""
    bad, allowed = [], []
    for one in found:
        name = one["id"].split(" ")[0]
        text = f"{one['severity']:<8} {one['id']}: {one['finding']}"
        if one["severity"] in QUIET:
            continue
        if name in ALLOWED and one["severity"] in ("LOW", "WARN"):
            allowed.append(f"{text}  [{ALLOWED[name]}]")
        else:
            bad.append(text)
    return bad, allowed


def examine(name: str, port: int, authority: str, folder: pathlib.Path) -> tuple[int, str]:
    starttls = name.endswith("starttls")
    scan = sslscan_findings(sslscan(port, starttls))
    found = testssl(port, starttls, authority, folder / f"testssl-{name}.json")
    bad, allowed = testssl_findings(found)
    lines = [f"{name}: sslscan: {len(scan)} findings; testssl.sh: {len(found)} checks, "
             f"{len(bad)} findings, {len(allowed)} allowed"]
    lines += [f"  FOUND   {one}" for one in scan + bad] + [f"  allowed {one}" for one in allowed]
    return len(scan) + len(bad), "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-tls-face-"))
    hop, relays, jobs, bad = NextHop(), [], [], 0
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for kind in ("ecdsa", "rsa"):
                (folder / kind).mkdir()
                certificate = chain(folder / kind, kind)
                relays.append(Relay(hop, {"listen": LISTENERS}, certificate=certificate))
                for what, listener in (("starttls", "smtp"), ("implicit", "smtps")):
                    name = f"{kind}-{what}"
                    if all(word in name for word in arguments.only):
                        jobs.append(pool.submit(
                            examine, name, relays[-1].ports[listener],
                            str(folder / kind / "root.pem"), folder))
            for job in jobs:
                count, text = job.result()
                bad += count
                print(text, flush=True)
    finally:
        for relay in relays:
            relay.stop()
            relay.close()
        hop.close()
        if os.environ.get("RINGPOST_TEST_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(jobs)} listeners, {bad} findings")
    return 1 if bad or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
