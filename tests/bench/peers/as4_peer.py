"""An AS4 access point, as small as one can be made of the `as4` library.

The library builds and parses messages and receipts; what an access point adds
is made here: HTTP on loopback, and an append with fdatasync before the signed
receipt goes out. The Peppol profile signs (RSA 2048, SHA-256), compresses and
encrypts; there is no message without. A message is 4 KiB of XML that does not
compress well. Seen with strace: an fdatasync for each message.

    as4_peer.py --seconds N --dir DIR [accept one round]

accept  messages are built before the clock starts; 4 under way
one     the same, one after the other
round   built, signed and encrypted within the clock, the receipt verified

Each work prints one line of JSON.
"""

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

from as4 import AS4LocalPrivateKey, SecurityPolicy, pinned_certificates
from as4.peppol import (
    build_peppol_message,
    create_peppol_external_party,
    create_peppol_internal_party,
    parse_peppol_message,
    parse_peppol_receipt,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

BODY_BYTES = 4096
# processes that serve, and that load: Python uses one processor each
SERVERS = 2
LOADS = 2
DRAIN_SECONDS_MAX = 60


def certified(name):
    """A key, and a certificate that it signed itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return AS4LocalPrivateKey(key), builder.sign(key, hashes.SHA256())


class Parties:
    """Both ends; processes are forked, so that they share the keys."""

    def __init__(self):
        self.sender_key, self.sender = certified("PTE000001")
        self.receiver_key, self.receiver = certified("PTE000002")

    def build(self):
        """A message: what is posted, and what its receipt must say."""
        head, tail = b'<?xml version="1.0"?><letter>', b"</letter>"
        letters = BODY_BYTES - len(head) - len(tail)
        body = head + base64.b64encode(os.urandom(letters))[:letters] + tail
        message = build_peppol_message(
            payload=body,
            local_party=create_peppol_internal_party("PTE000001", self.sender, self.sender_key),
            remote_party=create_peppol_external_party("PTE000002", self.receiver),
            sender="9932:9999999999",
            recipient="9932:1111111111",
            sender_country_id="VN",
            document_type_identifier_scheme="busdox-docid-qns",
            document_type_identifier_value="urn:example:letter::Letter##urn:example:letter:1::1.0",
            process_identifier="urn:example:letters",
        )
        posted, boundary = message.get_request_data()
        return posted, message.get_http_headers(boundary), message.signed_references


def serve(parties, path, said):
    """Parses, verifies and decrypts; appends and syncs; then the receipt."""
    local = create_peppol_internal_party("PTE000002", parties.receiver, parties.receiver_key)
    policy = SecurityPolicy(signer_resolver=pinned_certificates(parties.sender))
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    class AccessPoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self):
            posted = self.rfile.read(int(self.headers["Content-Length"]))
            received = parse_peppol_message(dict(self.headers.items()), posted, local, security_policy=policy)
            if received.successful:
                for body in received.message.decrypted_data.values():
                    os.write(log, body)
                os.fdatasync(log)
            headers, receipt = received.build_signal()
            self.send_response(200 if received.successful else 500)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(receipt)))
            self.end_headers()
            self.wfile.write(receipt)

        def do_GET(self):
            """Processor time so far."""
            used = resource.getrusage(resource.RUSAGE_SELF)
            text = str(used.ru_utime + used.ru_stime).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    class Threads(HTTPServer):
        """A thread for each connection: there are few."""

        def process_request(self, request, address):
            threading.Thread(target=self.one, args=(request, address), daemon=True).start()

        def one(self, request, address):
            self.finish_request(request, address)
            self.shutdown_request(request)

    server = Threads(("127.0.0.1", 0), AccessPoint)
    said.put(server.server_address[1])
    server.serve_forever()


def load(parties, port, lanes, work, begin, end, built, found):
    """Some lanes of one process: latencies of what ended in time."""
    times, errors, lock = [], [], threading.Lock()

    def lane():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.monotonic() < end:
            began = time.monotonic()
            if work == "round":
                posted, headers, references = parties.build()
            else:
                try:
                    posted, headers, references = built.get_nowait()
                except queue.Empty:
                    raise RuntimeError("too few were built before the clock started") from None
            connection.request("POST", "/as4", posted, dict(headers))
            answer = connection.getresponse()
            receipt = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"refused: {receipt[:600]!r}")
            if work == "round":
                parse_peppol_receipt(receipt, parties.receiver).verify_non_repudiation(references)
            now = time.monotonic()
            if begin <= now < end:
                with lock:
                    times.append(now - began)

    def guarded():
        try:
            lane()
        except BaseException as error:  # told, and no figure is made
            errors.append(repr(error))

    threads = [threading.Thread(target=guarded) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.put((times, errors))


def build_for(parties, seconds):
    """Built by all processors, before the clock: enough for so many seconds of
    sending, since a receiver of this library takes longer for a message."""
    global building
    building = parties
    with multiprocessing.Pool(LOADS, initializer=signal.signal, initargs=(signal.SIGTERM, signal.SIG_DFL)) as pool:
        begun = time.monotonic()
        built = pool.map(build_one, range(256), chunksize=16)
        rate = len(built) / (time.monotonic() - begun)
        return built + pool.map(build_one, range(int(rate * seconds)), chunksize=16)


def build_one(_):
    """Keys come along by fork; they are not sent."""
    return building.build()


def cpu(ports):
    used = 0.0
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/cpu")
        used += float(connection.getresponse().read())
        connection.close()
    return used


def measure(parties, ports, work, seconds):
    """One work, as `tests/bench/peers` files figures."""
    warm_up = max(seconds / 5, 1.0)
    loads, lanes = (1, 1) if work == "one" else (LOADS, 2)
    shares = [queue.SimpleQueue() for _ in range(loads)]
    if work != "round":
        for number, message in enumerate(build_for(parties, (warm_up + seconds) * loads / LOADS)):
            shares[number % loads].put(message)
    found = multiprocessing.Queue()
    begin = time.monotonic() + warm_up
    end = begin + seconds
    tasks = [
        multiprocessing.Process(target=load, args=(parties, ports[n % SERVERS], lanes, work, begin, end, shares[n], found))
        for n in range(loads)
    ]
    for task in tasks:
        task.start()
    time.sleep(max(begin - time.monotonic(), 0))
    before = cpu(ports)
    time.sleep(max(end - time.monotonic(), 0))
    used = cpu(ports) - before
    times = []
    for _ in tasks:
        some, errors = found.get(timeout=DRAIN_SECONDS_MAX)
        if errors:
            raise RuntimeError(errors[0])
        times += some
    for task in tasks:
        task.join()
    times.sort()

    def at(share):
        return times[min(int(len(times) * share), len(times) - 1)] * 1e3

    return {
        "peer": "as4",
        "work": work,
        "per_second": len(times) / seconds,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "cpu_seconds": used,
        "cpu_us_each": used * 1e6 / len(times),
        "seconds": float(seconds),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--out", type=argparse.FileType("a"), default=sys.stdout)
    parser.add_argument("work", nargs="*", default=["accept", "one", "round"])
    args = parser.parse_args()
    multiprocessing.set_start_method("fork")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the servers
    parties, said = Parties(), multiprocessing.Queue()
    servers = [
        multiprocessing.Process(target=serve, args=(parties, os.path.join(args.dir, f"log-{n}"), said), daemon=True)
        for n in range(SERVERS)
    ]
    for server in servers:
        server.start()
    try:
        ports = [said.get(timeout=DRAIN_SECONDS_MAX) for _ in servers]
        for work in args.work:
            print(json.dumps(measure(parties, ports, work, args.seconds)), file=args.out, flush=True)
    finally:
        for server in servers:
            server.terminate()


main()
