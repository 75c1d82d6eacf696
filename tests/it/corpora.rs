//! Every input of the fuzz targets' corpora, without a fuzzer: what was found
//! once stays mended. `AXIS_BLESS=1` writes the inputs that begin a corpus.

use std::path::{Path, PathBuf};

use axis_hub::journal::Entry;
use axis_proto::seal::{PayloadType, seal};
use prost::Message as _;

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::world::{self, WORLD};

const TESTS: &str = env!("CARGO_MANIFEST_DIR");

fn corpus(target: &str) -> PathBuf {
    Path::new(TESTS).join("fuzz/corpus").join(target)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn what_the_fuzzers_know_holds() {
    if std::env::var_os("AXIS_BLESS").is_some() {
        bless();
    }
    let mut bytes = 0;
    for (target, run) in fuzz::TARGETS {
        let inputs = files(&corpus(target));
        assert!(inputs.len() >= 4, "{target} has a corpus");
        for path in inputs {
            let input = std::fs::read(&path).expect("readable");
            bytes += input.len();
            println!("{}", path.display());
            run(&input);
        }
    }
    assert!(
        bytes < 500 * 1024,
        "the corpora have {bytes} bytes: `tests/fuzz/run --merge` makes them smaller"
    );
}

/// What the vectors hold under a key, hex decoded or as it is.
fn vectors(folder: &str, key: &str) -> Vec<Vec<u8>> {
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
    };
    let found =
        files(&Path::new(TESTS).join("vectors").join(folder)).into_iter().flat_map(|path| {
            match read(path).get(key).cloned() {
                Some(serde_json::Value::Array(texts)) => texts,
                Some(one) => vec![one],
                None => Vec::new(),
            }
        });
    let bytes = |text: serde_json::Value| {
        let text = text.as_str()?.to_owned();
        Some(hex::decode(&text).unwrap_or_else(|_| text.into_bytes()))
    };
    found.filter_map(bytes).filter(|bytes| bytes.len() < 4_000).collect()
}

fn bless() {
    let write = |target: &str, head: &[u8], inputs: Vec<Vec<u8>>| {
        std::fs::create_dir_all(corpus(target)).expect("made");
        for (number, input) in inputs.into_iter().enumerate() {
            let name = format!("seed-{}-{number:02}", hex::encode(head));
            std::fs::write(corpus(target).join(name), [head, &input].concat()).expect("written");
        }
    };
    let entries: Vec<&Entry> = WORLD.batches.iter().flat_map(|batch| &batch.entries).collect();
    let envelope = |number: u8| world::envelope(number).encode_to_vec();
    let acknowledgement = world::acknowledgement(&WORLD, WORLD.open).encode_to_vec();
    let rejection = world::rejection(&WORLD, WORLD.open).encode_to_vec();
    write("envelope", &[0], vec![envelope(1), envelope(9)]);
    write("envelope", &[0], vectors("payload", "payload").into_iter().step_by(4).collect());
    write("envelope", &[1], vec![acknowledgement.clone()]);
    write("envelope", &[2], vec![rejection]);
    let sealed = |kind, payload, by: &[&str]| {
        let keys: Vec<_> = by.iter().map(|by| world::secret(by)).collect();
        seal(kind, payload, &keys.iter().collect::<Vec<_>>()).encode_to_vec()
    };
    let two = sealed(PayloadType::Envelope, envelope(9), &["vpcp", "byt"]);
    write("envelope", &[4], vec![sealed(PayloadType::Envelope, envelope(9), &["vpcp"]), two]);
    write("envelope", &[5], vec![sealed(PayloadType::Acknowledgement, acknowledgement, &["byt"])]);

    let flip = |file: u8, at: u16, with: u8| {
        [vec![4 | file << 3], at.to_le_bytes().to_vec(), vec![with, 0]].concat()
    };
    let header = [flip(0, 8, 2), flip(0, 16, 1), flip(0, 48, 1), flip(0, 64, 7)].concat();
    let frames =
        [flip(0, 4096 + 4, 1), flip(0, 4096 + 8, 3), flip(1, 4096 + 12, 1), flip(0, 4200, 9)].concat();
    let cuts = vec![
        vec![0, 0, 0x18, 0, 0],
        vec![8, 0, 0x14, 0, 0],
        vec![1, 0, 0x20, 40, 0],
        vec![9, 0, 0x12, 200, 0],
    ];
    let copies = vec![vec![3, 0, 0x11, 255, 2], vec![2, 0, 0x11, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]];
    for head in [[0], [1]] {
        write(
            "journal",
            &head,
            [vec![header.clone(), frames.clone(), Vec::new()], cuts.clone(), copies.clone()].concat(),
        );
    }

    for (number, entry) in entries.iter().enumerate() {
        write("record", &[0, number as u8, 0, 0], vec![entry.record.to_vec()]);
        write("record", &[3, number as u8, 0, 0], vec![entry.record.to_vec()]);
    }
    write("record", &[1, 2, 9, 0], vec![vec![0xff; 3], vec![0; 20]]);
    write("record", &[2, 14, 0, 0], vec![vec![0xff; 3], vec![0x0a, 0x20]]);

    write("snapshot", &[0], vec![Vec::new(), vec![40, 0, 9, 1], vec![0, 1, 0, 0]]);
    write(
        "snapshot",
        &[1],
        vec![vec![8, 0, 9, 1], vec![12, 0, 9, 1], vec![100, 0, 9, 0xff], vec![96, 0, 1, 4, 1, 2, 3, 4]],
    );
    write("snapshot", &[2], vec![b"axissnap\x54\0\0\0".to_vec()]);

    let whole = [[0, 2, 0], [2, 2, 60], [5, 2, 0], [2, 2, 60], [6, 2, 0]].concat();
    let resumed =
        [[0, 3, 0], [2, 3, 255], [8, 0, 3], [0, 3, 0], [2, 3, 255], [2, 3, 115], [6, 3, 0], [8, 0, 9]]
            .concat();
    let wrong = [[0, 2, 0], [0x82, 2, 87], [6, 2, 0], [0x80, 2, 3], [0, 2, 0], [7, 2, 0]].concat();
    write("upload", &[], vec![whole, resumed, wrong, vec![0, 0, 0, 6, 0, 0, 0, 4, 0, 6, 4, 0]]);

    for (kind, name) in
        (0..).zip(["agency_code", "system_id", "hub_id", "group_id", "envelope_id", "delivery_id"])
    {
        let read = |state: &str| {
            let path = Path::new(TESTS).join(format!("vectors/id/{name}-{state}.json"));
            let vector: serde_json::Value =
                serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
            let texts = vector["texts"].as_array().cloned().unwrap_or_default();
            texts
                .into_iter()
                .filter_map(|text| Some(text.as_str()?.as_bytes().to_vec()))
                .take(4)
                .collect::<Vec<_>>()
        };
        write("text", &[kind], [read("good"), read("bad")].concat());
    }
    write("text", &[6], vec!["00".repeat(32).into_bytes()]);
    write("text", &[7], vec![world::secret("byt").public().key_id().to_string().into_bytes()]);
    write("text", &[8], vectors("token", "token"));
    write("text", &[9], vectors("proof", "proof"));
    write("text", &[10], vec![WORLD.verifier().verifier_key().into_bytes()]);
    write("text", &[11], vec![Vec::new(), vec![15, b'9'], vec![17, b'A', 70, b'b']]);
    write("text", &[12], vectors("receipt", "encoded").into_iter().step_by(3).collect());
    write("text", &[13], vectors("payload", "payload").into_iter().step_by(5).collect());
}
