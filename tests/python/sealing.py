"""Seals and opens: DSSE v1.0.2 over exact bytes, Ed25519.

A payload is encoded once; those bytes are signed, kept and sent. Nobody
encodes it again, not even its maker on a retry.
"""

import secrets
import time
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from axis.envelope.v1 import envelope_pb2

ENVELOPE = "application/vnd.axis.envelope.v1+protobuf"
ACKNOWLEDGEMENT = "application/vnd.axis.ack.v1+protobuf"
REJECTION = "application/vnd.axis.reject.v1+protobuf"


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def digest(payload_type: str, payload: bytes) -> bytes:
    """The identity of a payload everywhere: SHA-256(PAE)."""
    return sha256(pae(payload_type, payload)).digest()


def raw_public(key) -> bytes:
    """The 32 bytes of an Ed25519 public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public: bytes) -> bytes:
    """SHA-256 of the 44-byte SubjectPublicKeyInfo."""
    return sha256(bytes.fromhex("302a300506032b6570032100") + public).digest()


def seal(payload_type: str, payload: bytes, *keys: Ed25519PrivateKey):
    signed = pae(payload_type, payload)
    return envelope_pb2.SealedEnvelope(
        payload=payload,
        payload_type=payload_type,
        signatures=[
            envelope_pb2.Signature(
                sig=key.sign(signed), keyid=key_id(raw_public(key.public_key())).hex()
            )
            for key in keys
        ],
    )


def open_sealed(sealed, payload_type: str, public_keys: dict[bytes, bytes]) -> bytes:
    """The payload, once every signature verifies with a key that we know:
    `public_keys` maps key ids to keys. Raises ValueError."""
    if sealed.payload_type != payload_type:
        raise ValueError(f"a {sealed.payload_type}, not a {payload_type}")
    if not 1 <= len(sealed.signatures) <= 16:
        raise ValueError("1 to 16 signatures are allowed")
    if not 1 <= len(sealed.payload) <= 262_144:
        raise ValueError("the payload is empty or too large")
    seen = set()
    for signature in sealed.signatures:
        known = public_keys.get(bytes.fromhex(signature.keyid))
        if known is None:
            raise ValueError(f"unknown key {signature.keyid}")
        if known in seen:
            raise ValueError("two signatures by one key")
        seen.add(known)
        try:
            key = Ed25519PublicKey.from_public_bytes(known)
            key.verify(signature.sig, pae(sealed.payload_type, sealed.payload))
        except InvalidSignature:
            raise ValueError("a signature does not verify") from None
    return sealed.payload


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_envelope_id() -> bytes:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, the rest random."""
    made = bytearray(now_ms().to_bytes(6, "big") + secrets.token_bytes(10))
    made[6] = made[6] & 0x0F | 0x70
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)
