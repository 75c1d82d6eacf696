"""Checks evidence offline: hashes, inclusion, checkpoints, receipts, leaves.

Written from the comments in proto/ and the vectors alone, with nothing but
SHA-256 and Ed25519. It never asks the hub and never encodes a record: it
hashes the bytes it was given, and parses those same bytes.
"""

import base64
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from axis.record.v1 import record_pb2


class Invalid(Exception):
    """The evidence does not hold; the text says where."""


# --- The tree: RFC 6962 hashes, RFC 9162 proofs -----------------------------


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def entry_hash(salt: bytes, record: bytes) -> bytes:
    """What stands in the tree for a record: a salted commitment."""
    return sha256(b"axis record v1" + salt + record).digest()


def root_of(hashes: list[bytes]) -> bytes:
    """The root over leaf hashes."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)  # largest power of two below
    return node_hash(root_of(hashes[:split]), root_of(hashes[split:]))


def root_by_inclusion(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        raise Invalid(f"index {index} is outside a tree of {size}")
    here, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Invalid("the path is too long")
        if here & 1 or here == last:
            found = node_hash(sibling, found)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        here, last = here >> 1, last >> 1
    if last != 0:
        raise Invalid("the path is too short")
    return found


def consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: list[bytes]) -> bool:
    """Whether the tree of size `old` is a prefix of that of size `new`
    (RFC 9162 section 2.1.4.2)."""
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path
    if not 0 < old < new:
        return False
    path = list(path)
    if old & (old - 1) == 0:  # a power of two: its root is the first node
        path.insert(0, old_root)
    if not path:
        return False
    here, last = old - 1, new - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    found_old = found_new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            found_old, found_new = node_hash(node, found_old), node_hash(node, found_new)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found_new = node_hash(found_new, node)
        here, last = here >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


# --- Checkpoints: C2SP signed notes -----------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The signed head of a log."""

    origin: str
    size: int
    root: bytes


class LogKey:
    """The key that a log signs its checkpoints with, from its `vkey` text:
    `<name>+<8 hex key id>+<base64(type ‖ key)>`."""

    def __init__(self, vkey: str):
        # Names may not hold '+', base64 may.
        self.name, key_id, encoded = vkey.split("+", 2)
        typed = _base64(encoded)
        if len(typed) != 33 or typed[0] != 1:
            raise Invalid("not an Ed25519 key")
        self.key_id = sha256(self.name.encode() + b"\n" + typed).digest()[:4]
        if self.key_id.hex() != key_id:
            raise Invalid("the key id does not belong to the key")
        self._key = Ed25519PublicKey.from_public_bytes(typed[1:])

    def checkpoint(self, note: str) -> Checkpoint:
        """Opens a signed note; others' signatures below ours do not matter."""
        text, separator, signatures = note.rpartition("\n\n")
        if not separator or not signatures.endswith("\n"):
            raise Invalid("not a signed note")
        text += "\n"  # the signed text ends with its last newline
        signed = False
        for line in signatures[:-1].split("\n"):
            mark, name, blob = _three(line)
            blob = _base64(blob)
            if mark != "\u2014" or len(blob) < 5:
                raise Invalid("not a signature line")
            if (name, blob[:4]) != (self.name, self.key_id):
                continue
            try:
                self._key.verify(blob[4:], text.encode())
            except InvalidSignature:
                raise Invalid("the log's signature does not verify") from None
            signed = True
        if not signed:
            raise Invalid("the log did not sign it")

        lines = text.split("\n")
        if len(lines) < 4:
            raise Invalid("not a checkpoint")
        origin, size, root = lines[:3]
        if origin != self.name:
            raise Invalid(f"a checkpoint of {origin}, signed by {self.name}")
        return Checkpoint(origin, _decimal(size), _hash(root))


# --- Receipts ---------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """A `.tlog-proof`: where a leaf stands, and in which signed tree."""

    extra: bytes
    index: int
    hashes: list[bytes]
    checkpoint: str


def parse_proof(text: str) -> Proof:
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise Invalid("not a c2sp.org/tlog-proof@v1")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = _base64(lines.pop(0)[len("extra ") :])
    if not lines or not lines[0].startswith("index "):
        raise Invalid("the proof has no index")
    index = _decimal(lines.pop(0)[len("index ") :])
    return Proof(extra, index, [_hash(line) for line in lines], note)


def verify_receipt(receipt, log: LogKey):
    """The record that a receipt proves; raises Invalid if it proves none."""
    proof = parse_proof(receipt.proof)
    if len(proof.extra) != 16:
        raise Invalid("the extra line is not a 16-byte salt")
    checkpoint = log.checkpoint(proof.checkpoint)
    leaf = leaf_hash(entry_hash(proof.extra, receipt.record))
    if root_by_inclusion(proof.index, checkpoint.size, leaf, proof.hashes) != checkpoint.root:
        raise Invalid("the record is not in the log at its index")
    record = record_pb2.Record.FromString(receipt.record)
    if record.sequence != proof.index:
        raise Invalid("the record has another sequence than its index")
    if receipt.HasField("opening"):
        opened_leaf(receipt.opening, leaf_list_root(record))
    return record


# --- Leaves that are opened one by one --------------------------------------


def leaf_salt(secret: bytes, position: int) -> bytes:
    return sha256(b"axis leaf salt v1" + secret + position.to_bytes(4, "big")).digest()[:16]


def salted_leaf_hash(salt: bytes, leaf: bytes) -> bytes:
    return sha256(b"\x00" + salt + leaf).digest()


def leaf_list_root(record) -> bytes:
    """The root that a record holds over its list of leaves."""
    kind = record.WhichOneof("event")
    if kind == "accepted":
        return record.accepted.recipient_root
    if kind == "consigned":
        return record.consigned.consignment_root
    raise Invalid(f"a record of kind {kind} has no leaves")


def opened_leaf(opening, root: bytes) -> bytes:
    """The one leaf that an opening shows to be under `root`."""
    leaf = salted_leaf_hash(opening.salt, opening.leaf)
    if root_by_inclusion(opening.position, opening.size, leaf, list(opening.path)) != root:
        raise Invalid("the leaf is not in the record's list")
    return opening.leaf


# --- Texts, read strictly ---------------------------------------------------


def _base64(text: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        raise Invalid(f"not base64: {text!r}") from None
    if base64.b64encode(found).decode() != text:
        raise Invalid(f"not canonical base64: {text!r}")
    return found


def _hash(text: str) -> bytes:
    found = _base64(text)
    if len(found) != 32:
        raise Invalid("a hash has 32 bytes")
    return found


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise Invalid(f"not a number: {text!r}")
    return int(text)


def _three(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3:
        raise Invalid(f"not a signature line: {line!r}")
    return parts[0], parts[1], parts[2]
