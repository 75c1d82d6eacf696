"""A whole client of Axis in Python: enrols, sends, receives, answers, tracks.

It shows what an integrator writes: what it does is described in proto/ and in
tests/vectors/README.md. Blocking calls, one method a deed; everything that is kept for a retry is kept as bytes.
"""

import base64
import queue
import re
import socket
import ssl
from dataclasses import dataclass
from hashlib import sha256

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import evidence
import sealing
from axis.envelope.v1 import envelope_pb2
from axis.hub.v1 import (
    hub_pb2,
    hub_pb2_grpc,
    mailbox_pb2,
    mailbox_pb2_grpc,
    submission_pb2,
    submission_pb2_grpc,
)
from axis.record.v1 import record_pb2

INLINE_BYTES_MAX = 65_536  # larger documents are uploaded first
INLINE_TOTAL_BYTES_MAX = 1_048_576
CHUNK_BYTES = 262_144


class Refused(Exception):
    """The hub said no: `reason` is its short name, `violations` say where."""

    def __init__(self, reason, message, violations, facts):
        super().__init__(f"{reason}: {message} {violations} {facts}")
        self.reason, self.violations, self.facts = reason, violations, facts


class Unexpected(Exception):
    """The hub's answer does not fit what was asked or signed."""


def refusal_of(error: grpc.RpcError) -> Refused:
    """What a gRPC status says in Axis's words."""
    reason, facts, violations, message = error.code().name, {}, [], error.details()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.LocalizedMessage,
        ):
            if not detail.Is(kind.DESCRIPTOR):
                continue
            found = kind.FromString(detail.value)
            if kind is error_details_pb2.ErrorInfo and found.domain == "axis":
                reason, facts = found.reason, dict(found.metadata)
            elif kind is error_details_pb2.BadRequest:
                violations = [(v.field, v.description) for v in found.field_violations]
            elif kind is error_details_pb2.LocalizedMessage:
                message = found.message
    return Refused(reason, message, violations, facts)


def asked(call, *arguments, **named):
    """Calls the hub; a refusal becomes Refused."""
    try:
        return call(*arguments, **named)
    except grpc.RpcError as error:
        raise refusal_of(error) from error


# --- Enrolment --------------------------------------------------------------


def parse_token(text: str) -> tuple[str, bytes, bytes]:
    """What an enrolment token says: the enrolment listener's address, SHA-256
    of the authority's key, and the secret. `axis1-` and base32 in lower case,
    without padding, of key ‖ secret ‖ address ‖ checksum."""
    text = text.strip().lower()
    if not text.startswith("axis1-"):
        raise ValueError("an enrolment token begins with axis1-")
    encoded = text.removeprefix("axis1-")
    try:
        told = base64.b32decode(encoded.upper() + "=" * (-len(encoded) % 8))
    except ValueError:
        raise ValueError("the token is incomplete or mistyped") from None
    body, checksum = told[:-4], told[-4:]
    canonical = base64.b32encode(told).decode().rstrip("=").lower() == encoded
    if not canonical or sha256(b"axis enrolment token v1" + body).digest()[:4] != checksum:
        raise ValueError("the token is incomplete or mistyped")
    address = body[48:].decode()
    if not re.fullmatch(r"[!-~]+:[1-9][0-9]{0,4}", address):
        raise ValueError("the token's address is not host:port")
    return address, body[:32], body[32:48]


@dataclass
class Identity:
    """What a system keeps for itself, and what it trusts."""

    system_id: str
    hub_id: str
    hub_address: str
    agencies: list[str]
    authority_pem: bytes
    certificate_pem: bytes
    tls_key_pem: bytes
    signing_key: Ed25519PrivateKey
    log: evidence.LogKey


def authority_of(address: str, key_sha256: bytes) -> bytes:
    """The hub's authority certificate (PEM), found on the connection itself
    and believed only because the token names its key."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # nothing is trusted yet, and nothing is said
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=host.strip("[]")) as tls:
            if hasattr(tls, "get_unverified_chain"):  # Python 3.13
                chain = tls.get_unverified_chain()
            else:
                chain = [
                    c.public_bytes(ssl._ssl.ENCODING_DER)
                    for c in tls._sslobj.get_unverified_chain()
                ]
    for der in chain:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if sha256(key).digest() == key_sha256:
            return certificate.public_bytes(Encoding.PEM)
    raise ValueError("the hub does not show the authority that the token names")


def new_tls_key() -> tuple[bytes, bytes]:
    """An ECDSA P-256 key (PEM) and a certificate request for it (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))  # the hub does not use it
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, request.public_bytes(Encoding.DER)


def enrol(address: str, authority_key_sha256: bytes, secret: bytes) -> Identity:
    """Turns what a token says into an identity. Keys are made here and stay
    here; the token is used up."""
    authority = authority_of(address, authority_key_sha256)
    tls_key_pem, request = new_tls_key()
    signing_key = Ed25519PrivateKey.generate()
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
        answer = asked(
            hub_pb2_grpc.EnrolmentServiceStub(channel).Enrol,
            hub_pb2.EnrolRequest(
                token_secret=secret,
                certificate_request=request,
                signing_public_key=sealing.raw_public(signing_key.public_key()),
                signing_key_proof=signing_key.sign(
                    b"axis enrol v1" + secret + sha256(request).digest()
                ),
            ),
            timeout=30,
        )
    certificate = x509.load_der_x509_certificate(answer.certificate)
    identity = Identity(
        system_id=answer.system_id,
        hub_id=answer.hub_id,
        hub_address=answer.hub_address,
        agencies=list(answer.agencies),
        authority_pem=authority,
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        tls_key_pem=tls_key_pem,
        signing_key=signing_key,
        log=evidence.LogKey(answer.log_verifier_key),
    )
    evidence.verify_receipt(answer.receipt, identity.log)
    return identity


# --- The exchange -----------------------------------------------------------


@dataclass
class Submission:
    """An envelope ready to be handed over; the same bytes on every try."""

    envelope_id: bytes
    request: submission_pb2.SubmitRequest
    uploads: list[bytes]


@dataclass
class Proven:
    """What somebody signed, held against the record that says so."""

    record: record_pb2.Record
    said: object
    system: str
    key_ids: list[bytes]


@dataclass
class Received:
    """A delivery whose signature, digests and keys were checked."""

    delivery: mailbox_pb2.Delivery
    envelope: envelope_pb2.Envelope


class Mailbox:
    """Accounts for every number of a mailbox."""

    def __init__(self):
        self.accounted_to = 0
        self._above = set()

    def seen(self, number: int):
        if number > self.accounted_to:
            self._above.add(number)
        while self.accounted_to + 1 in self._above:
            self.accounted_to += 1
            self._above.remove(self.accounted_to)

    def missing(self, floor: int) -> list[int]:
        """Numbers that the hub calls settled and never showed us."""
        return [n for n in range(self.accounted_to + 1, floor + 1) if n not in self._above]


class Client:
    """A connection of one system, with its certificate."""

    def __init__(self, identity: Identity, language: str = "en"):
        self.identity = identity
        self.mailbox_numbers = Mailbox()
        self._key_records = {}
        credentials = grpc.ssl_channel_credentials(
            identity.authority_pem, identity.tls_key_pem, identity.certificate_pem
        )
        self._channel = grpc.secure_channel(identity.hub_address, credentials)
        self._named = {"timeout": 60, "metadata": [("accept-language", language)]}
        self.hub = hub_pb2_grpc.HubServiceStub(self._channel)
        self.submission = submission_pb2_grpc.SubmissionServiceStub(self._channel)
        self.mailbox = mailbox_pb2_grpc.MailboxServiceStub(self._channel)
        self.feed = hub_pb2_grpc.FeedServiceStub(self._channel)
        self.tracking = hub_pb2_grpc.TrackServiceStub(self._channel)
        self.evidence = hub_pb2_grpc.EvidenceServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def call(self, method, request):
        """One unary call."""
        return asked(method, request, **self._named)

    # sending

    def prepare(self, sender, to, subject, files, **more) -> Submission:
        """Makes, signs and keeps an envelope. `files` maps names to bytes;
        `more` sets further fields of the envelope or its metadata."""
        documents = [
            envelope_pb2.Document(
                name=name,
                media_type="application/octet-stream",
                size=len(content),
                sha256=sha256(content).digest(),
            )
            for name, content in files.items()
        ]
        metadata = envelope_pb2.DocumentMetadata(subject=subject, **more.pop("metadata", {}))
        fields = {
            "envelope_id": sealing.new_envelope_id(),
            "hub_id": self.identity.hub_id,
            "sender": sender,
            "recipients": [envelope_pb2.Recipient(agency=code) for code in to],
            "created_unix_ms": sealing.now_ms(),
            "document": envelope_pb2.DocumentBody(metadata=metadata, documents=documents),
        } | more
        envelope = envelope_pb2.Envelope(**fields)
        sealed = sealing.seal(
            sealing.ENVELOPE, envelope.SerializeToString(), self.identity.signing_key
        )
        inline, uploads, room = {}, [], INLINE_TOTAL_BYTES_MAX
        for content in files.values():
            if len(content) <= min(INLINE_BYTES_MAX, room):
                room -= len(content)
                inline[sha256(content).digest()] = content
            else:
                uploads.append(content)
        return Submission(
            envelope.envelope_id,
            submission_pb2.SubmitRequest(sealed_envelope=sealed, documents=list(inline.values())),
            uploads,
        )

    def submit(self, submission: Submission):
        """Hands it over. Safe to repeat: the same receipt comes back."""
        for content in submission.uploads:
            self.upload(content)
        answer = self.call(self.submission.Submit, submission.request)
        record = evidence.verify_receipt(answer.receipt, self.identity.log)
        sealed = submission.request.sealed_envelope
        expected = sealing.digest(sealed.payload_type, sealed.payload)
        if record.accepted.envelope_digest != expected:
            raise Unexpected("the receipt is for another envelope")
        return answer

    def upload(self, content: bytes):
        """Uploads a document, from where an earlier try stopped."""
        digest, size = sha256(content).digest(), len(content)
        stand = self.call(
            self.submission.QueryUpload,
            submission_pb2.QueryUploadRequest(sha256=digest, size=size),
        )
        if stand.complete:
            return stand

        def parts():
            yield submission_pb2.UploadRequest(
                start=submission_pb2.UploadStart(
                    sha256=digest, size=size, offset=stand.committed_bytes
                )
            )
            for at in range(stand.committed_bytes, size, CHUNK_BYTES):
                yield submission_pb2.UploadRequest(chunk=content[at : at + CHUNK_BYTES])

        answer = self.call(self.submission.Upload, parts())
        if not answer.complete:
            raise Unexpected(f"the upload stands at {answer.committed_bytes} of {size}")
        return answer

    # receiving

    def pull(self, wait_ms=0, max_deliveries=100, lease_duration_ms=60_000) -> list[Received]:
        """What waits, verified; numbers that ended elsewhere are accounted."""
        answer = self.call(
            self.mailbox.Pull,
            mailbox_pb2.PullRequest(
                max_deliveries=max_deliveries,
                max_wait_ms=wait_ms,
                lease_duration_ms=lease_duration_ms,
                accounted_to=self.mailbox_numbers.accounted_to,
            ),
        )
        received = [self.checked(delivery) for delivery in answer.deliveries]
        for gone in answer.gone:
            self.mailbox_numbers.seen(gone.mailbox_sequence)
        return received

    def receive(self, credit=10):
        """A stream of verified deliveries; each gives its credit back."""
        said = queue.SimpleQueue()
        said.put(
            mailbox_pb2.ReceiveRequest(
                start=mailbox_pb2.ReceiveStart(
                    accounted_to=self.mailbox_numbers.accounted_to, credit=credit
                )
            )
        )
        answers = self.mailbox.Receive(iter(said.get, None), metadata=self._named["metadata"])
        try:
            for answer in answers:
                part = answer.WhichOneof("part")
                if part == "delivery":
                    yield self.checked(answer.delivery)
                    said.put(mailbox_pb2.ReceiveRequest(credit=mailbox_pb2.Credit(deliveries=1)))
                elif part == "gone":
                    self.mailbox_numbers.seen(answer.gone.mailbox_sequence)
                elif part == "closing":
                    return
        except grpc.RpcError as error:
            raise refusal_of(error) from error
        finally:
            said.put(None)
            answers.cancel()

    def checked(self, delivery) -> Received:
        """Believes nothing that the sender's signature or the log does not
        cover."""
        keys = {}
        for key in delivery.signing_keys:
            if sealing.key_id(key.public_key) != key.key_id:
                raise Unexpected("a key does not have the id it is listed with")
            keys[key.key_id.hex()] = key.public_key
        sealed = delivery.sealed_envelope
        payload = sealing.open_sealed(sealed, sealing.ENVELOPE, keys)
        if sealing.digest(sealed.payload_type, payload) != delivery.envelope_digest:
            raise Unexpected("the envelope has another digest")
        envelope = envelope_pb2.Envelope.FromString(payload)
        if envelope.hub_id != self.identity.hub_id:
            raise Unexpected("the envelope is meant for another hub")
        for key in delivery.signing_keys:
            if key.agencies and envelope.sender not in key.agencies:
                raise Unexpected("the key may not sign for the sender")
        record = evidence.verify_receipt(delivery.receipt, self.identity.log)
        leased = record.leased
        if (
            leased.delivery.envelope_digest != delivery.envelope_digest
            or leased.delivery.agency != delivery.recipient
            or leased.delivery.mailbox_sequence != delivery.mailbox_sequence
            or leased.attempt != delivery.attempt
        ):
            raise Unexpected("the lease's receipt is for another delivery")
        self.mailbox_numbers.seen(delivery.mailbox_sequence)
        return Received(delivery, envelope)

    def document(self, received: Received, name: str) -> bytes:
        """A file of a delivery, from the delivery itself or by Download."""
        named = next(d for d in received.envelope.document.documents if d.name == name)
        for content in received.delivery.documents:
            if sha256(content).digest() == named.sha256:
                return content
        request = mailbox_pb2.DownloadRequest(
            delivery_id=received.delivery.delivery_id, sha256=named.sha256
        )
        try:
            content = b"".join(part.chunk for part in self.mailbox.Download(request, **self._named))
        except grpc.RpcError as error:
            raise refusal_of(error) from error
        if len(content) != named.size or sha256(content).digest() != named.sha256:
            raise Unexpected(f"{name} is not the file that was signed")
        return content

    # answering

    def acknowledge(self, received: Received, reference=""):
        """Says, signed and final, that we hold it."""
        payload = envelope_pb2.Acknowledgement(
            **self._about(received), acknowledged_unix_ms=sealing.now_ms(), reference=reference
        ).SerializeToString()
        sealed = sealing.seal(sealing.ACKNOWLEDGEMENT, payload, self.identity.signing_key)
        answer = self.call(
            self.mailbox.Acknowledge,
            mailbox_pb2.AcknowledgeRequest(sealed_acknowledgement=sealed),
        )
        record = evidence.verify_receipt(answer.receipt, self.identity.log)
        if not answer.late and not answer.duplicate:
            if record.acknowledged.acknowledgement_digest != sealing.digest(
                sealing.ACKNOWLEDGEMENT, payload
            ):
                raise Unexpected("the receipt is for another acknowledgement")
        return answer

    def reject(self, received: Received, reason, explanation=""):
        """Says, signed and final, that we cannot take it."""
        payload = envelope_pb2.Rejection(
            **self._about(received),
            rejected_unix_ms=sealing.now_ms(),
            reason=reason,
            explanation=explanation,
        ).SerializeToString()
        sealed = sealing.seal(sealing.REJECTION, payload, self.identity.signing_key)
        answer = self.call(self.mailbox.Reject, mailbox_pb2.RejectRequest(sealed_rejection=sealed))
        evidence.verify_receipt(answer.receipt, self.identity.log)
        return answer

    def _about(self, received: Received) -> dict:
        delivery = received.delivery
        return {
            "hub_id": self.identity.hub_id,
            "delivery_id": delivery.delivery_id,
            "envelope_digest": delivery.envelope_digest,
            "recipient": delivery.recipient,
            "mailbox_sequence": delivery.mailbox_sequence,
        }

    # asking

    def track(self, sender: str, envelope_id: bytes):
        return self.call(
            self.tracking.Track,
            hub_pb2.TrackRequest(sender=sender, envelope_id=envelope_id),
        )

    def read_feed(self, after=0):
        """Entries of our feed as (number, proven record)."""
        answer = self.call(self.feed.ReadFeed, hub_pb2.ReadFeedRequest(after=after))
        return [
            (entry.feed_sequence, evidence.verify_receipt(entry.receipt, self.identity.log))
            for entry in answer.entries
        ]

    def receipt(self, sequence: int, agency=""):
        return self.call(
            self.evidence.GetReceipt,
            hub_pb2.GetReceiptRequest(sequence=sequence, agency=agency),
        ).receipt

    def proven(self, sequence: int) -> Proven | None:
        """What a record says was signed, and by whom; nothing if the hub has
        erased it. Believes the hub's log, never the answer alone."""
        answer = self.call(
            self.evidence.GetReceipt,
            hub_pb2.GetReceiptRequest(sequence=sequence, with_sealed=True),
        )
        record = evidence.verify_receipt(answer.receipt, self.identity.log)
        if not answer.sealed:
            return None
        event = getattr(record, record.WhichOneof("event"))
        kinds = {
            "accepted": (sealing.ENVELOPE, envelope_pb2.Envelope),
            "acknowledged": (sealing.ACKNOWLEDGEMENT, envelope_pb2.Acknowledgement),
            "late_accepted": (sealing.ACKNOWLEDGEMENT, envelope_pb2.Acknowledgement),
            "rejected": (sealing.REJECTION, envelope_pb2.Rejection),
        }
        payload_type, message = kinds[record.WhichOneof("event")]
        if sha256(answer.sealed).digest() not in [cargo.sha256 for cargo in record.cargo]:
            raise Unexpected("the record binds other bytes")
        sealed = envelope_pb2.SealedEnvelope.FromString(answer.sealed)
        keys = [
            self.enrolled_key(key_id, at, before=sequence)
            for key_id, at in zip(event.key_ids, answer.signing_key_sequences, strict=True)
        ]
        payload = sealing.open_sealed(
            sealed, payload_type, {key.key_id.hex(): key.public_key for key in keys}
        )
        if [bytes.fromhex(one.keyid) for one in sealed.signatures] != list(event.key_ids):
            raise Unexpected("the record names other keys")
        said = message.FromString(payload)
        digest = sealing.digest(payload_type, payload)
        if payload_type == sealing.ENVELOPE:
            speaker, system = said.sender, event.sender_system
            same = digest == event.envelope_digest and said.envelope_id == event.envelope_id
        else:
            about = event.delivery
            speaker, system = said.recipient, about.system
            same = (
                digest == getattr(event, "acknowledgement_digest", None)
                or digest == getattr(event, "rejection_digest", None)
            ) and (
                said.delivery_id,
                said.envelope_digest,
                said.recipient,
                said.mailbox_sequence,
                getattr(said, "reason", 0),
            ) == (
                f"{about.envelope_sequence}-{about.recipient_index}",
                about.envelope_digest,
                about.agency,
                about.mailbox_sequence,
                getattr(event, "reason", 0),
            )
        if not same:
            raise Unexpected("the record says something else than what was signed")
        for key in keys:
            if key.system != system or key.revoked_unix_ms:
                raise Unexpected("the key is not the signer's")
            if key.agencies and speaker not in key.agencies:
                raise Unexpected("the key may not sign for that agency")
        return Proven(record, said, system, list(event.key_ids))

    def enrolled_key(self, key_id: bytes, sequence: int, before: int):
        """A key as a record of the directory holds it; asked for once."""
        if sequence >= before:
            raise Unexpected("the key was enrolled after it signed")
        if sequence not in self._key_records:
            self._key_records[sequence] = evidence.verify_receipt(
                self.receipt(sequence), self.identity.log
            )
        for entry in self._key_records[sequence].directory_changed.entries:
            if entry.signing_key.key_id == key_id:
                if sealing.key_id(entry.signing_key.public_key) != key_id:
                    raise Unexpected("a key does not have the id it is listed with")
                return entry.signing_key
        raise Unexpected(f"record {sequence} does not hold the key")
