"""Seals and opens: DSSE v1.0.2 over exact bytes, Ed25519.

A payload is encoded once; those bytes are signed, kept and sent. Nobody
encodes it again, not even its maker on a retry.
"""

import re
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

PAYLOAD_BYTES_MAX = 262_144
SIGNATURES_MAX = 16


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


class NotSealed(Exception):
    """A sealed payload does not open: the hub's reason for it, and where."""

    def __init__(self, reason: str, field: str):
        super().__init__(f"{reason} at {field}")
        self.reason, self.field = reason, field


def open_sealed(sealed, payload_type: str, public_keys: dict[str, bytes]) -> bytes:
    """The payload, once every signature verifies with a key that we know:
    `public_keys` maps hints (hex key ids) to keys."""
    if not sealed.payload:
        raise NotSealed("FIELD_INVALID", "payload")
    if len(sealed.payload) > PAYLOAD_BYTES_MAX:
        raise NotSealed("TOO_LARGE", "payload")
    if sealed.payload_type != payload_type:
        raise NotSealed("FIELD_INVALID", "payload_type")
    if not sealed.signatures:
        raise NotSealed("FIELD_INVALID", "signatures")
    if len(sealed.signatures) > SIGNATURES_MAX:
        raise NotSealed("TOO_LARGE", "signatures")

    hints = set()
    for index, signature in enumerate(sealed.signatures):
        hint = signature.keyid
        if not re.fullmatch("[0-9a-f]{64}", hint) or hint in hints:
            raise NotSealed("FIELD_INVALID", f"signatures[{index}].keyid")
        if len(signature.sig) != 64:
            raise NotSealed("FIELD_INVALID", f"signatures[{index}].sig")
        hints.add(hint)

    signed, signers = pae(sealed.payload_type, sealed.payload), set()
    for index, signature in enumerate(sealed.signatures):
        public = public_keys.get(signature.keyid)
        if public is None:
            raise NotSealed("KEY_UNKNOWN", f"signatures[{index}].keyid")
        if public in signers:  # the key counts, not its hint
            raise NotSealed("FIELD_INVALID", f"signatures[{index}].keyid")
        if not signed_by(public, signature.sig, signed):
            raise NotSealed("SIGNATURE_INVALID", f"signatures[{index}].sig")
        signers.add(public)
    return sealed.payload


# Points of small order, bit 255 left out: under such a key one signature fits
# all messages. Most libraries, this one too, do not look.
SMALL_ORDER = {
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    *(bytes([first]) + b"\xff" * 30 + b"\x7f" for first in (0xEC, 0xED, 0xEE)),
}


def has_small_order(point: bytes) -> bool:
    return point[:31] + bytes([point[31] & 0x7F]) in SMALL_ORDER


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key made the signature, strictly: no point of small order."""
    if len(public) != 32 or len(signature) != 64:
        return False
    if has_small_order(public) or has_small_order(signature[:32]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_envelope_id() -> bytes:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, the rest random."""
    made = bytearray(now_ms().to_bytes(6, "big") + secrets.token_bytes(10))
    made[6] = made[6] & 0x0F | 0x70
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)
