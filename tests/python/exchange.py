"""The Python client against a real hub: each test is a situation."""

import os
import re
import signal
import subprocess
import tempfile
import time
import tomllib
import unittest
import urllib.request
from pathlib import Path

import client
import evidence
import sealing
from axis.envelope.v1 import envelope_pb2
from axis.hub.v1 import hub_pb2, mailbox_pb2, submission_pb2

HUB_ID = "hub.example"
OFFICE, HEALTH, PROVINCE = "G22", "G18", "H53"


class Hub:
    """A hub of its own directory, on ports that the system chooses."""

    def __init__(self):
        self._home = tempfile.TemporaryDirectory(prefix="axis-python-")
        self.directory = Path(self._home.name) / "hub"
        self.binary = os.environ["AXIS_HUB_BIN"]
        free = ("--listen-systems", "--listen-enrolment", "--listen-operators")
        ports = [word for option in free for word in (option, "127.0.0.1:0")]
        self.run("init", str(self.directory), "--hub-id", HUB_ID, *ports)
        self.log = open(self.directory / "log.txt", "w+")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--dir", str(self.directory)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.addresses = self._addresses()

    def run(self, *words) -> str:
        """An operator's command."""
        done = subprocess.run([self.binary, *words], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"axis-hub {' '.join(words)}: {done.stderr}")
        return done.stdout

    def operate(self, *words) -> str:
        return self.run(*words, "--dir", str(self.directory))

    def _addresses(self) -> dict:
        """What the hub writes once it listens."""
        found = self.directory / "addresses.toml"
        deadline = time.monotonic() + 30
        while not found.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise AssertionError(f"the hub does not listen:\n{self.log.read()}")
            time.sleep(0.05)
        return tomllib.loads(found.read_text())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        self.log.close()
        return status


def enrolled(hub: Hub, system: str, name: str, *agencies: str) -> client.Client:
    """Adds a system as an operator does, and enrols it."""
    words = [word for code in agencies for word in ("--agency", code)]
    token = hub.operate("system", "add", system, "--name", name, *words)
    address, authority, secret = client.parse_token(token)
    return client.Client(client.enrol(address, authority, secret))


def key_id_of(who: client.Client) -> bytes:
    return sealing.key_id(sealing.raw_public(who.identity.signing_key.public_key()))


class Exchange(unittest.TestCase):
    """One hub and three systems for all situations."""

    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        for code, name in [
            (OFFICE, "Văn phòng Chính phủ"),
            (HEALTH, "Bộ Y tế"),
            (PROVINCE, "Tỉnh Tây Ninh"),
            ("H53.01", "Văn phòng UBND tỉnh Tây Ninh"),
            ("H99", "Chưa kết nối"),
        ]:
            cls.hub.operate("agency", "add", code, "--name", name)
        cls.office = enrolled(cls.hub, "vpcp", "VPCP", OFFICE)
        cls.health = enrolled(cls.hub, "moh", "Bộ Y tế", HEALTH)
        cls.province = enrolled(cls.hub, "tayninh", "Trục Tây Ninh", PROVINCE, "H53.01")

    @classmethod
    def tearDownClass(cls):
        for each in (cls.office, cls.health, cls.province):
            each.close()
        status = cls.hub.stop()
        if status != 0:
            raise AssertionError(f"the hub ended with {status}")
        cls.hub.run("fsck", "--dir", str(cls.hub.directory))

    def taken(self, who: client.Client, envelope_id: bytes) -> client.Received:
        """The delivery of this envelope; earlier tests leave nothing behind."""
        received = who.pull(wait_ms=10_000)
        self.assertEqual([r.envelope.envelope_id for r in received], [envelope_id])
        return received[0]

    def refused(self, reason: str, call, *arguments) -> client.Refused:
        with self.assertRaises(client.Refused) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.reason, reason, str(caught.exception))
        return caught.exception

    def test_01_the_hub_introduces_itself(self):
        info = self.office.call(self.office.hub.GetInfo, hub_pb2.GetInfoRequest())
        self.assertEqual((info.hub_id, info.system_id), (HUB_ID, "vpcp"))
        self.assertEqual(list(info.agencies), [OFFICE])
        self.assertEqual(evidence.LogKey(info.log_verifier_key).name, self.office.identity.log.name)
        self.assertLess(abs(info.now_unix_ms - sealing.now_ms()), 60_000)

    def test_02_sent_received_acknowledged_proven(self):
        """Small and large files, to act and to know, diacritics everywhere."""
        files = {
            "Công văn số 123 về y tế.pdf": b"%PDF-1.4 " + "nội dung".encode(),
            "Phụ lục.bin": os.urandom(3_000_000),
            "trống.txt": b"",
        }
        submission = self.office.prepare(
            OFFICE,
            [HEALTH],
            "V/v tăng cường phòng, chống dịch bệnh mùa đông – xuân",
            files,
            metadata={"code_number": "123", "code_notation": "VPCP-KGVX"},
        )
        check = self.office.call(
            self.office.submission.Check,
            submission_pb2.CheckRequest(sealed_envelope=submission.request.sealed_envelope),
        )
        self.assertFalse(check.HasField("refusal"))
        self.assertEqual((len(check.missing_documents), check.recipient_count), (3, 1))

        accepted = self.office.submit(submission)
        self.assertFalse(accepted.duplicate)

        received = self.taken(self.health, submission.envelope_id)
        self.assertEqual(received.delivery.attempt, 1)
        for name, content in files.items():
            self.assertEqual(self.health.document(received, name), content)

        # Where the office has not yet been told:
        tracked = self.office.track(OFFICE, submission.envelope_id)
        self.assertEqual(tracked.recipients[0].state, hub_pb2.DELIVERY_STATE_LEASED)

        answer = self.health.acknowledge(received, reference="Số đến 4567")
        self.assertFalse(answer.duplicate or answer.late)
        again = self.health.acknowledge(received)  # other bytes, same word
        self.assertTrue(again.duplicate)
        self.assertEqual(again.receipt, answer.receipt)

        tracked = self.office.track(OFFICE, submission.envelope_id)
        self.assertEqual(tracked.recipients[0].state, hub_pb2.DELIVERY_STATE_ACKNOWLEDGED)
        self.assertEqual((tracked.recipient_count, tracked.settled_count), (1, 1))
        receipt = self.office.receipt(tracked.recipients[0].since_sequence)
        record = evidence.verify_receipt(receipt, self.office.identity.log)
        self.assertEqual(record.acknowledged.delivery.agency, HEALTH)

        # The recipient's own word, and the sender's, each with whose key signed.
        answered = self.office.proven(record.sequence)
        self.assertEqual((answered.said.reference, answered.system), ("Số đến 4567", "moh"))
        self.assertEqual(answered.key_ids, [key_id_of(self.health)])
        accepted = self.health.proven(received.delivery.accepted_sequence)
        self.assertEqual((accepted.said, accepted.system), (received.envelope, "vpcp"))
        (named,) = received.delivery.signing_key_sequences
        key = self.health.enrolled_key(key_id_of(self.office), named, before=record.sequence)
        self.assertEqual(key, received.delivery.signing_keys[0])
        self.refused("NOT_FOUND", self.province.proven, record.sequence)

    def test_03_the_same_again_is_the_same_receipt(self):
        submission = self.office.prepare(OFFICE, [PROVINCE], "Gửi hai lần", {"a.txt": b"a"})
        first, second = self.office.submit(submission), self.office.submit(submission)
        self.assertTrue(second.duplicate and not first.duplicate)
        self.assertEqual(first.receipt.SerializeToString(), second.receipt.SerializeToString())

        # Other bytes under the same id are a conflict, and queue nothing.
        other = self.office.prepare(
            OFFICE, [PROVINCE], "Khác", {"a.txt": b"a"}, envelope_id=submission.envelope_id
        )
        self.refused("ENVELOPE_CONFLICT", self.office.submit, other)
        self.province.acknowledge(self.taken(self.province, submission.envelope_id))

    def test_04_one_envelope_to_many_over_the_stream(self):
        codes = [HEALTH, PROVINCE, "H53.01"]
        submission = self.office.prepare(OFFICE, codes, "Gửi nhiều nơi", {"a.txt": b"a"})
        accepted = self.office.submit(submission)

        taken = []
        for who, count in ((self.health, 1), (self.province, 2)):
            stream = who.receive(credit=5)
            for _ in range(count):
                received = next(stream)
                taken.append(received.delivery.recipient)
                self.assertEqual(received.envelope.envelope_id, submission.envelope_id)
                who.acknowledge(received)
            stream.close()
        self.assertEqual(sorted(taken), sorted(codes))

        # A party's receipt opens its own leaf, and no other.
        sequence = evidence.verify_receipt(accepted.receipt, self.office.identity.log).sequence
        opened = self.province.receipt(sequence, agency="H53.01")
        proven = evidence.verified(opened, self.province.identity.log)
        self.assertEqual(proven.opened.agency, "H53.01")
        self.assertEqual(proven.record.accepted.recipient_count, 3)
        self.refused("NOT_FOUND", self.province.receipt, sequence, HEALTH)

    def test_05_rejected_with_a_reason(self):
        submission = self.office.prepare(OFFICE, [HEALTH], "Nhầm nơi nhận", {"a.txt": b"a"})
        self.office.submit(submission)
        received = self.taken(self.health, submission.envelope_id)
        wrong = envelope_pb2.REJECTION_REASON_WRONG_ADDRESSEE
        self.health.reject(received, wrong, "Không thuộc Bộ Y tế")
        tracked = self.office.track(OFFICE, submission.envelope_id)
        self.assertEqual(tracked.recipients[0].state, hub_pb2.DELIVERY_STATE_REJECTED)

        # A word that comes after is recorded once, as late.
        late = self.health.acknowledge(received)
        self.assertTrue(late.late)

    def test_06_not_now_comes_again(self):
        submission = self.office.prepare(OFFICE, [HEALTH], "Để sau", {"a.txt": b"a"})
        self.office.submit(submission)
        first = self.taken(self.health, submission.envelope_id).delivery
        self.health.call(
            self.health.mailbox.Nack,
            mailbox_pb2.NackRequest(
                delivery_id=first.delivery_id, attempt=first.attempt, delay_ms=1
            ),
        )
        second = self.taken(self.health, submission.envelope_id)
        self.assertEqual(second.delivery.attempt, 2)
        self.refused(
            "LEASE_LOST",
            self.health.call,
            self.health.mailbox.Extend,
            mailbox_pb2.ExtendRequest(delivery_id=first.delivery_id, attempt=first.attempt),
        )
        self.health.acknowledge(second)

    def test_07_refusals_name_reason_and_field(self):
        def sent(**changes):
            arguments = {"sender": OFFICE, "to": [HEALTH], "subject": "x", "files": {"a": b"a"}}
            return self.office.prepare(**(arguments | changes))

        refused = self.refused(
            "RECIPIENTS_REFUSED", self.office.submit, sent(to=[HEALTH, "H00", "H99"])
        )
        fields = dict(refused.violations)
        self.assertIn("RECIPIENT_UNKNOWN", fields["envelope.recipients[1].agency"])
        self.assertIn("RECIPIENT_NOT_CONNECTED", fields["envelope.recipients[2].agency"])
        self.refused("SENDER_NOT_SERVED", self.office.submit, sent(sender=HEALTH))
        self.refused("WRONG_HUB", self.office.submit, sent(hub_id="hub.elsewhere"))
        self.refused(
            "STALE", self.office.submit, sent(created_unix_ms=sealing.now_ms() - 31 * 86_400_000)
        )
        self.refused(
            "FUTURE", self.office.submit, sent(created_unix_ms=sealing.now_ms() + 3_600_000)
        )
        self.refused("RECIPIENTS_EMPTY", self.office.submit, sent(to=[]))

        forged = sent()
        forged.request.sealed_envelope.signatures[0].sig = bytes(64)
        self.refused("SIGNATURE_INVALID", self.office.submit, forged)

        without = sent()
        del without.request.documents[:]
        self.refused("DOCUMENT_MISSING", self.office.submit, without)

    def test_08_the_log_only_grows(self):
        def checkpoint():
            note = self.office.call(
                self.office.evidence.GetCheckpoint, hub_pb2.GetCheckpointRequest()
            ).checkpoint
            return self.office.identity.log.checkpoint(note)

        old = checkpoint()
        self.office.submit(self.office.prepare(OFFICE, [HEALTH], "Thêm", {"a": b"a"}))
        new = checkpoint()
        self.assertLess(old.size, new.size)
        path = self.office.call(
            self.office.evidence.GetConsistency,
            hub_pb2.GetConsistencyRequest(old_size=old.size, new_size=new.size),
        ).hashes
        self.assertTrue(evidence.consistent(old.size, new.size, old.root, new.root, list(path)))
        for received in self.health.pull(wait_ms=10_000):
            self.health.acknowledge(received)

    def test_09_feed_and_mailbox_have_no_holes(self):
        entries = self.office.read_feed()
        self.assertEqual([number for number, _ in entries], list(range(1, len(entries) + 1)))
        kinds = {record.WhichOneof("event") for _, record in entries}
        self.assertLessEqual({"accepted", "leased", "acknowledged", "rejected"}, kinds)
        accepted = [record.accepted for _, record in entries if record.WhichOneof("event") == "accepted"]
        self.assertTrue(all(one.consignment_root for one in accepted), "few recipients see it at once")
        for who in (self.health, self.province):
            who.pull()
            progress = who.call(who.mailbox.Pull, mailbox_pb2.PullRequest()).progress
            self.assertEqual((progress.floor, progress.waiting), (progress.high, 0))
            self.assertEqual(who.mailbox_numbers.missing(progress.floor), [])

    def test_10_others_see_nothing(self):
        submission = self.office.prepare(OFFICE, [HEALTH], "Riêng", {"a": b"a"})
        accepted = self.office.submit(submission)
        sequence = evidence.verify_receipt(accepted.receipt, self.office.identity.log).sequence
        self.refused("NOT_FOUND", self.province.receipt, sequence)
        self.refused("NOT_FOUND", self.province.track, OFFICE, submission.envelope_id)
        self.health.acknowledge(self.taken(self.health, submission.envelope_id))

    def test_11_alerts_and_dashboard_name_what_there_is(self):
        def families():
            address = self.hub.addresses["operators"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                return set(re.findall(r"^# TYPE (\w+)", answer.read().decode(), re.MULTILINE))

        deploy = Path(__file__).parents[2] / "deploy"
        named = set()
        for file in (*(deploy / "prometheus").iterdir(), *(deploy / "grafana").iterdir()):
            names = re.findall(r"\baxis_\w+", file.read_text())
            named |= {re.sub(r"_(bucket|total|sum|count)$", "", name) for name in names}
        deadline = time.monotonic() + 10  # what was recorded is counted every second
        while (missing := named - families()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.assertEqual(missing, set())


if __name__ == "__main__":
    unittest.main()
