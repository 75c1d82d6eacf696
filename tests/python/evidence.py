"""Checks evidence offline: hashes, inclusion, checkpoints, receipts, leaves.

It needs what the comments in proto/ and tests/vectors say, and nothing but
SHA-256 and Ed25519. It never asks the hub and never encodes a record: it
hashes the bytes it was given, and parses those same bytes.
"""

import base64
from dataclasses import dataclass
from hashlib import sha256

from google.protobuf.message import DecodeError

import sealing
from axis.record.v1 import record_pb2


class Invalid(Exception):
    """The evidence does not hold: `what` in one word, as the vectors name it."""

    def __init__(self, what: str, detail: str):
        super().__init__(f"{what}: {detail}")
        self.what = what


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
        raise Invalid("INCLUSION", f"index {index} is outside a tree of {size}")
    here, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Invalid("INCLUSION", "the path is too long")
        if here & 1 or here == last:
            found = node_hash(sibling, found)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        here, last = here >> 1, last >> 1
    if last != 0:
        raise Invalid("INCLUSION", "the path is too short")
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
        try:
            # Names may not hold '+', base64 may.
            self.name, key_id, encoded = vkey.split("+", 2)
            typed = _base64(encoded)
            if not _is_name(self.name) or len(typed) != 33 or typed[0] != 1:
                raise ValueError("not an Ed25519 key with a name")
            self._key = typed[1:]
        except ValueError as error:
            raise Invalid("VERIFIER_KEY", str(error)) from None
        self.key_id = sha256(self.name.encode() + b"\n" + typed).digest()[:4]
        if self.key_id.hex() != key_id:
            raise Invalid("VERIFIER_KEY", "the key id does not belong to the key")

    def open(self, note: str) -> str:
        """The text of a signed note; others' signatures below ours do not matter."""
        text, separator, signatures = note.rpartition("\n\n")
        if not separator or any(c < " " and c != "\n" for c in note):
            raise Invalid("NOTE", "not a signed note")
        text += "\n"  # the signed text ends with its last newline
        *lines, end = signatures.split("\n")
        if end or not lines:
            raise Invalid("NOTE", "the last line has no end")
        signed = False
        for line in lines:
            name, blob = _signature_line(line)
            if (name, blob[:4]) != (self.name, self.key_id):
                continue
            if not sealing.signed_by(self._key, blob[4:], text.encode()):
                raise Invalid("SIGNATURE", "the log's signature does not verify")
            signed = True
        if not signed:
            raise Invalid("UNSIGNED", "the log did not sign it")
        return text

    def checkpoint(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this log signed."""
        text = self.open(note)
        try:
            origin, size, root, *_extensions, _end = text.split("\n")
            found = Checkpoint(origin, _decimal(size), _hash(root))
            if found.size == 0 and found.root != root_of([]):
                raise ValueError("an empty log has the empty root")
        except ValueError as error:
            raise Invalid("CHECKPOINT", str(error)) from None
        if found.origin != self.name:
            raise Invalid("OTHER_ORIGIN", f"of {origin}, signed by {self.name}")
        return found


# --- Succession: a log goes on where another was last known -----------------


@dataclass(frozen=True)
class Succession:
    """The previous log up to `size` is the beginning of `log`."""

    size: int
    root: bytes
    log: LogKey
    vkey: str


def succession(note: str, previous: LogKey) -> Succession:
    """A succession that both logs signed; raises Invalid otherwise."""
    text, separator, _signatures = note.rpartition("\n\n")
    if not separator or any(c < " " and c != "\n" for c in note):
        raise Invalid("NOTE", "not a signed note")
    try:
        first, old, size, root, new, vkey = text.split("\n")
        found = Succession(_decimal(size), _hash(root), LogKey(vkey), vkey)
        if first != "axis.succession/v1" or not _is_name(old):
            raise ValueError("another text")
        if found.size == 0 or found.log.name != new or new == old:
            raise ValueError("no log follows another so")
    except (ValueError, Invalid) as error:
        raise Invalid("SUCCESSION", str(error)) from None
    found.log.open(note)
    if old != previous.name:
        raise Invalid("OTHER_ORIGIN", f"it continues {old}")
    try:
        previous.open(note)
    except Invalid as error:
        what = "UNSIGNED_BY_PREVIOUS" if error.what == "UNSIGNED" else error.what
        raise Invalid(what, str(error)) from None
    return found


def _signature_line(line: str) -> tuple[str, bytes]:
    try:
        mark, name, blob = line.split(" ")
        found = _base64(blob)
    except ValueError:
        raise Invalid("NOTE", f"not a signature line: {line!r}") from None
    if mark != "\u2014" or not _is_name(name) or len(found) < 5:
        raise Invalid("NOTE", f"not a signature line: {line!r}")
    return name, found


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


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
    if not separator or not note or lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise Invalid("PROOF", "not a c2sp.org/tlog-proof@v1")
    try:
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = _base64(lines.pop(0).removeprefix("extra "))
        if not lines or not lines[0].startswith("index "):
            raise ValueError("the proof has no index")
        if len(lines) > 64:
            raise ValueError("no log is that deep")
        index = _decimal(lines.pop(0).removeprefix("index "))
        return Proof(extra, index, [_hash(line) for line in lines], note)
    except ValueError as error:
        raise Invalid("PROOF", str(error)) from None


@dataclass(frozen=True)
class Verified:
    """What a receipt proves."""

    record: record_pb2.Record
    checkpoint: Checkpoint
    opened: object  # RecipientLeaf, ConsignmentLeaf or None


def verified(receipt, log: LogKey) -> Verified:
    """What a receipt proves; raises Invalid if it proves nothing."""
    try:
        record = record_pb2.Record.FromString(receipt.record)
    except DecodeError as error:
        raise Invalid("RECORD", str(error)) from None
    if len(receipt.record) > 16_384:
        raise Invalid("RECORD", "larger than a record may be")
    proof = parse_proof(receipt.proof)
    if len(proof.extra) != 16:
        raise Invalid("SALT", "the extra line is not a 16-byte salt")
    if record.sequence != proof.index:
        raise Invalid("INDEX", f"record {record.sequence}, proof of {proof.index}")
    try:
        checkpoint = log.checkpoint(proof.checkpoint)
    except Invalid as error:
        raise Invalid("CHECKPOINT", str(error)) from None
    leaf = leaf_hash(entry_hash(proof.extra, receipt.record))
    if root_by_inclusion(proof.index, checkpoint.size, leaf, proof.hashes) != checkpoint.root:
        raise Invalid("INCLUSION", "the record is not in the log")
    opened = opened_leaf(record, receipt.opening) if receipt.HasField("opening") else None
    return Verified(record, checkpoint, opened)


def verify_receipt(receipt, log: LogKey):
    """The record that a receipt proves."""
    return verified(receipt, log).record


# --- Leaves that are opened one by one --------------------------------------


def leaf_salt(secret: bytes, position: int) -> bytes:
    return sha256(b"axis leaf salt v1" + secret + position.to_bytes(4, "big")).digest()[:16]


def salted_leaf_hash(salt: bytes, leaf: bytes) -> bytes:
    return sha256(b"\x00" + salt + leaf).digest()


def root_by_opening(opening) -> bytes:
    """The root that an opening leads to."""
    leaf = salted_leaf_hash(opening.salt, opening.leaf)
    return root_by_inclusion(opening.position, opening.size, leaf, list(opening.path))


def opened_leaf(record, opening):
    """The one leaf of a record's list that an opening shows: its place and the
    list's length are the record's own, or it could be a leaf of another list."""
    try:
        kind = record.WhichOneof("event")
        if kind == "accepted" and record.accepted.consignment_root:
            leaf = record_pb2.ConsignmentLeaf.FromString(opening.leaf)
            first, root = 0, record.accepted.consignment_root
        elif kind == "accepted":
            leaf = record_pb2.RecipientLeaf.FromString(opening.leaf)
            first, root = 0, record.accepted.recipient_root
        elif kind == "consigned":
            leaf = record_pb2.ConsignmentLeaf.FromString(opening.leaf)
            first, root = record.consigned.first_recipient_index, record.consigned.consignment_root
        else:
            raise Invalid("OPENING", f"a record of kind {kind} has no leaves")
        if (
            opening.size != getattr(record, kind).recipient_count
            or first + opening.position != leaf.recipient_index
            or len(opening.salt) != 16
            or root_by_opening(opening) != root
        ):
            raise Invalid("OPENING", "the leaf is not in the record's list")
    except DecodeError as error:
        raise Invalid("OPENING", str(error)) from None
    except Invalid as error:
        raise Invalid("OPENING", str(error)) from None
    return leaf


# --- Texts, read strictly: ValueError if they are not in their one form -----


def _base64(text: str) -> bytes:
    found = base64.b64decode(text, validate=True)
    if base64.b64encode(found).decode() != text:
        raise ValueError(f"not canonical base64: {text!r}")
    return found


def _hash(text: str) -> bytes:
    found = _base64(text)
    if len(found) != 32:
        raise ValueError("a hash has 32 bytes")
    return found


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise ValueError(f"not a number: {text!r}")
    if int(text) >= 1 << 64:
        raise ValueError("a number has at most 64 bits")
    return int(text)
