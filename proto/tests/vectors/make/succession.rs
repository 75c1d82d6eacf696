//! A hub that was restored from its backup: the log goes on under a new name.

use axis_proto::{note::CheckpointSigner, succession::Succession};
use serde_json::json;

use super::{Vectors, key};

fn log(origin: &str, seed: u8) -> CheckpointSigner {
    CheckpointSigner::new(origin, key(seed)).expect("an origin")
}

pub fn all(vectors: &mut Vectors) {
    let (old, new) = (log("axis.test/log1", 0x01), log("axis.test/log/2-0a1b2c3d", 0x02));
    let same_key = log("axis.test/log/2-0a1b2c3d", 0x01);
    let succession = |new: &CheckpointSigner| Succession {
        previous_origin: old.origin().to_owned(),
        previous_size: 6,
        previous_root: [0x5a; 32],
        log: new.verifier(),
    };
    let good = |new: &CheckpointSigner| succession(new).sign(new, Some(&old)).expect("a note");
    for (name, about, new) in [
        ("new-key", "The new log has a key of its own.", &new),
        ("same-key", "The new log has the previous one's key, under its own name.", &same_key),
    ] {
        let members = json!({
            "previous_verifier_key": old.verifier_key(),
            "note": good(new),
            "previous_size": 6,
            "previous_root": hex::encode([0x5a; 32]),
            "verifier_key": new.verifier_key(),
        });
        vectors.add(&format!("succession/{name}"), about, "ok", members);
    }

    let note = good(&new);
    let changed = |from: &str, to: &str| {
        assert!(note.contains(from), "{from}");
        note.replacen(from, to, 1)
    };
    let without_last = |note: &str| {
        let end = note.trim_end().rfind('\n').expect("lines");
        note[..=end].to_owned()
    };
    let other = log("axis.test/other", 0x03);
    let of_other = Succession { previous_origin: "axis.test/other".into(), ..succession(&new) };
    let alone = succession(&new).sign(&new, None).expect("a note");
    for (name, about, expect, note) in [
        ("empty", "Nothing.", "NOTE", String::new()),
        ("checkpoint", "A checkpoint is no succession.", "SUCCESSION", old.sign(6, &[0x5a; 32])),
        ("first-line", "Another version.", "SUCCESSION", changed("/v1\n", "/v2\n")),
        ("leading-zero", "A size has one form.", "SUCCESSION", changed("\n6\n", "\n06\n")),
        ("no-records", "A log that had no record.", "SUCCESSION", changed("\n6\n", "\n0\n")),
        (
            "other-name",
            "The verifier key is not of the origin before it.",
            "SUCCESSION",
            changed("/log/2-0a1b2c3d\n", "/log/2-0a1b2c3e\n"),
        ),
        ("changed", "Another size than was signed.", "SIGNATURE", changed("\n6\n", "\n7\n")),
        ("unsigned", "The new log did not sign.", "UNSIGNED", without_last(&note)),
        (
            "previous-unsigned",
            "Only the new log signed: whoever knows the previous one asks the operator.",
            "UNSIGNED_BY_PREVIOUS",
            alone,
        ),
        (
            "other-log",
            "It continues another log, which signed it.",
            "OTHER_ORIGIN",
            of_other.sign(&new, Some(&other)).expect("a note"),
        ),
    ] {
        let members = json!({ "previous_verifier_key": old.verifier_key(), "note": note });
        vectors.add(&format!("succession/wrong-{name}"), about, expect, members);
    }
}
