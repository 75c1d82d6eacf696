"""Checks every file of tests/vectors with this client's own code.

    check_vectors.py DIRECTORY

A vector is a JSON file in a folder that says what it is about; bytes are hex.
`expect` is `ok`, or what is wrong in one word.
"""

import json
import sys
import uuid
from hashlib import sha256
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import json_format
from google.protobuf.message import DecodeError

import client
import evidence
import sealing
import shape
from axis.envelope.v1 import envelope_pb2
from axis.hub.v1 import reason_pb2
from axis.record.v1 import record_pb2


class Differs(Exception):
    """What we find is not what the vector says."""


def same(vector, member, found):
    if vector[member] != found:
        raise Differs(f"{member}: {vector[member]!r:.300} expected, {found!r:.300} found")


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def hexes(found) -> list[str]:
    return [each.hex() for each in found]


def decoded(message) -> dict:
    """A message in protobuf's JSON form, with the proto's own names."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def known(public_keys) -> dict:
    return {sealing.key_id(key).hex(): key for key in public_keys}


# --- One function a folder; each returns what `expect` should say -----------


def ids(vector):
    def delivery_id(text):
        return text.encode() if shape.is_delivery_id(text) else None

    def envelope_id(text):
        try:
            made = uuid.UUID(text).bytes if len(text) == 36 else b""
        except ValueError:
            return None
        return envelope_id_bytes(made.hex())

    def envelope_id_bytes(text):
        return raw(text) if shape.is_envelope_id(raw(text)) else None

    def pattern(expression):
        return lambda text: text.encode() if expression.fullmatch(text) else None

    read = {
        "agency_code": pattern(shape.AGENCY_CODE),
        "system_id": pattern(shape.SYSTEM_ID),
        "group_id": pattern(shape.GROUP_ID),
        "hub_id": pattern(shape.HUB_ID),
        "delivery_id": delivery_id,
        "envelope_id": envelope_id,
        "envelope_id_bytes": envelope_id_bytes,
    }[vector["type"]]
    found = [read(text) for text in vector["texts"]]
    if "bytes" in vector:
        same(vector, "bytes", hexes(found))
    good = [each is not None for each in found]
    if any(good) != all(good):
        raise Differs(f"some are taken, some are not: {list(zip(vector['texts'], good))}")
    return "ok" if all(good) else "FIELD_INVALID"


def key(vector):
    private = Ed25519PrivateKey.from_private_bytes(raw(vector["seed"]))
    public = sealing.raw_public(private.public_key())
    same(vector, "public_key", public.hex())
    same(vector, "spki", "302a300506032b6570032100" + public.hex())
    same(vector, "key_id", sealing.key_id(public).hex())
    same(vector, "signature", private.sign(raw(vector["message"])).hex())
    read = load_pem_private_key(vector["pem"].encode(), None)
    return "ok" if sealing.raw_public(read.public_key()) == public else "KEY"


def pae(vector):
    kind, payload = vector["payload_type"], raw(vector["payload"])
    same(vector, "pae", sealing.pae(kind, payload).hex())
    same(vector, "digest", sealing.digest(kind, payload).hex())
    return "ok"


def sealed(vector):
    message = envelope_pb2.SealedEnvelope(
        payload=raw(vector["payload"]) * vector.get("payload_repeats", 1),
        payload_type=vector["payload_type"],
        signatures=[
            envelope_pb2.Signature(sig=raw(each["sig"]), keyid=each["keyid"])
            for each in vector["signatures"]
        ],
    )
    keys = known(map(raw, vector["known_keys"]))
    try:
        payload = sealing.open_sealed(message, vector["expected_type"], keys)
    except sealing.NotSealed as error:
        same(vector, "at", error.field)
        return error.reason
    same(vector, "digest", sealing.digest(message.payload_type, payload).hex())
    if envelope_pb2.SealedEnvelope.FromString(raw(vector["encoded"])) != message:
        raise Differs("`encoded` is another message")
    signers = [Ed25519PrivateKey.from_private_bytes(raw(seed)) for seed in vector["seeds"]]
    return "ok" if sealing.seal(message.payload_type, payload, *signers) == message else "SEAL"


def payload(vector):
    name = vector["type"]
    message_type, payload_type, check = {
        "envelope": (envelope_pb2.Envelope, sealing.ENVELOPE, shape.envelope),
        "acknowledgement": (
            envelope_pb2.Acknowledgement,
            sealing.ACKNOWLEDGEMENT,
            shape.acknowledgement,
        ),
        "rejection": (envelope_pb2.Rejection, sealing.REJECTION, shape.rejection),
    }[name]
    content = raw(vector["payload"])
    same(vector, "digest", sealing.digest(payload_type, content).hex())
    try:
        message = message_type.FromString(content)
    except DecodeError:
        findings = [(name, "MALFORMED")]
    else:
        same(vector, "decoded", decoded(message))
        findings = check(message)
    same(vector, "violations", [{"field": f, "reason": r} for f, r in findings])
    return findings[0][1] if findings else "ok"


def tree(vector):
    if vector["type"] == "roots":
        leaves = [evidence.leaf_hash(raw(entry)) for entry in vector["entries"]]
        same(vector, "leaf_hashes", hexes(leaves))
        roots = [evidence.root_of(leaves[:size]) for size in range(len(leaves) + 1)]
        return "ok" if hexes(roots) == vector["roots"] else "ROOT"
    path = [raw(each) for each in vector["path"]]
    if vector["type"] == "inclusion":
        try:
            found = evidence.root_by_inclusion(
                vector["index"], vector["size"], raw(vector["leaf_hash"]), path
            )
        except evidence.Invalid as error:
            return error.what
        return "ok" if found == raw(vector["root"]) else "INCLUSION"
    good = evidence.consistent(
        vector["old_size"],
        vector["new_size"],
        raw(vector["old_root"]),
        raw(vector["new_root"]),
        path,
    )
    return "ok" if good else "CONSISTENCY"


def leaf(vector):
    entry = evidence.entry_hash(raw(vector["salt"]), raw(vector["record"]))
    same(vector, "entry", entry.hex())
    same(vector, "leaf_hash", evidence.leaf_hash(entry).hex())
    same(vector, "decoded", decoded(record_pb2.Record.FromString(raw(vector["record"]))))
    return "ok"


def opening_of(value):
    return record_pb2.LeafOpening(
        leaf=raw(value["leaf"]),
        salt=raw(value["salt"]),
        position=value["position"],
        size=value["size"],
        path=[raw(each) for each in value["path"]],
    )


def opening(vector):
    if vector["type"] == "list":
        leaves = [raw(each) for each in vector["leaves"]]
        salts = [evidence.leaf_salt(raw(vector["secret"]), at) for at in range(len(leaves))]
        hashes = [evidence.salted_leaf_hash(*pair) for pair in zip(salts, leaves)]
        same(vector, "salts", hexes(salts))
        same(vector, "leaf_hashes", hexes(hashes))
        same(vector, "root", evidence.root_of(hashes).hex())
        return "ok"
    found = opening_of(vector["opening"])
    try:
        good = len(found.salt) == 16 and evidence.root_by_opening(found) == raw(vector["root"])
    except evidence.Invalid:
        good = False
    return "ok" if good else "OPENING"


def checkpoint(vector):
    try:
        found = evidence.LogKey(vector["verifier_key"]).checkpoint(vector["note"])
    except evidence.Invalid as error:
        return error.what
    same(vector, "origin", found.origin)
    same(vector, "size", found.size)
    same(vector, "root", found.root.hex())
    return "ok"


def proof(vector):
    try:
        found = evidence.parse_proof(vector["proof"])
    except evidence.Invalid as error:
        return error.what
    same(vector, "extra", found.extra.hex())
    same(vector, "index", found.index)
    same(vector, "hashes", hexes(found.hashes))
    same(vector, "checkpoint", found.checkpoint)
    return "ok"


def receipt(vector):
    message = record_pb2.Receipt(record=raw(vector["record"]), proof=vector["proof"])
    if "opening" in vector:
        message.opening.CopyFrom(opening_of(vector["opening"]))
    if "encoded" in vector and record_pb2.Receipt.FromString(raw(vector["encoded"])) != message:
        raise Differs("`encoded` is another message")
    try:
        found = evidence.verified(message, evidence.LogKey(vector["verifier_key"]))
    except evidence.Invalid as error:
        return error.what
    same(vector, "decoded", decoded(found.record))
    same(vector, "size", found.checkpoint.size)
    if found.opened is not None:
        same(vector, "opened", decoded(found.opened))
    return "ok"


def succession(vector):
    try:
        found = evidence.succession(vector["note"], evidence.LogKey(vector["previous_verifier_key"]))
    except evidence.Invalid as error:
        return error.what
    same(vector, "previous_size", found.size)
    same(vector, "previous_root", found.root.hex())
    same(vector, "verifier_key", found.vkey)
    return "ok"


def token(vector):
    try:
        address, authority, secret = client.parse_token(vector["token"])
    except ValueError:
        return "TOKEN_INVALID"
    same(vector, "address", address)
    same(vector, "authority_key_sha256", authority.hex())
    same(vector, "secret", secret.hex())
    same(vector, "secret_sha256", sha256(secret).hexdigest())
    same(vector, "canonical", vector["token"].strip().lower())
    return "ok"


def enrolment(vector):
    request = sha256(raw(vector["certificate_request"])).digest()
    if vector["type"] == "enrol":
        message = b"axis enrol v1" + raw(vector["token_secret"]) + request
    else:
        message = b"axis renew v1" + vector["system_id"].encode() + request
    same(vector, "message", message.hex())
    good = sealing.signed_by(raw(vector["public_key"]), raw(vector["signature"]), message)
    return "ok" if good else "SIGNATURE_INVALID"


# What the comments of reason.proto say about remedies.
GRPC_CODES = {
    "FIX_REQUEST": {"INVALID_ARGUMENT"},
    "RETRY_LATER": {"RESOURCE_EXHAUSTED", "UNAVAILABLE"},
    "FIX_ACCESS": {"PERMISSION_DENIED"},
    "ENROL": {"UNAUTHENTICATED"},
    "CHECK_DIRECTORY": {"FAILED_PRECONDITION"},
    "UPLOAD": {"FAILED_PRECONDITION"},
    "MAKE_ANEW": {"FAILED_PRECONDITION"},
    "LEASE_AGAIN": {"ABORTED"},
    "ACCEPT": {"FAILED_PRECONDITION"},
    "CORRECT_REFERENCE": {"NOT_FOUND"},
    "RESTART_FROM_FLOOR": {"OUT_OF_RANGE"},
    "REPORT": {"INTERNAL"},
}


def reason(vector):
    """The table of reasons, as their options say it in any language."""
    values = [value for value in reason_pb2.Reason.DESCRIPTOR.values if value.number]
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    for value, told in zip(values, vector["reasons"], strict=True):
        info = value.GetOptions().Extensions[reason_pb2.info]
        same(told, "number", value.number)
        same(told, "reason", value.name.removeprefix("REASON_"))
        same(told, "remedy", reason_pb2.Remedy.Name(info.remedy).removeprefix("REMEDY_"))
        if codes[told["grpc_code"]] not in GRPC_CODES[told["remedy"]]:
            raise Differs(f"{told['reason']} comes with another code")
        if not (info.en and info.vi):
            raise Differs(f"{told['reason']} says nothing")
    return "ok"


FOLDERS = {"id": ids, "seal": sealed} | {
    check.__name__: check
    for check in (
        key, pae, payload, tree, leaf, opening, checkpoint, proof, receipt, succession, token, enrolment, reason
    )
}  # fmt: skip


def main(root: Path) -> int:
    passed, failed = 0, []
    for path in sorted(root.glob("*/*.json")):
        vector = json.loads(path.read_text())
        try:
            if (found := FOLDERS[path.parent.name](vector)) != vector["expect"]:
                raise Differs(f"{vector['expect']} expected, {found} found")
            passed += 1
        except Exception as error:  # a vector that breaks us is a finding too
            name = path.relative_to(root)
            failed.append(f"{name}: {type(error).__name__}: {error}\n    {vector['about']}")
    print("\n".join(failed))
    print(f"{passed} vectors passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
