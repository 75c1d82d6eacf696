//! The text form of an inclusion proof (C2SP tlog-proof). Reads and writes
//! it; `receipt` says whether it proves anything.

use std::{fmt, str::FromStr};

use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD as BASE64};

use crate::id::decimal;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2^63 leaves has no longer path.
const HASHES_MAX: usize = 63;
/// Characters of a hash in base64.
const HASH_CHARS: usize = 44;

/// That a leaf is in a log: its place, the way to the root, and the signed
/// head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Bytes beside the proof that it does not cover: the record's salt.
    /// Empty if there are none.
    pub extra: Vec<u8>,
    /// The leaf's index.
    pub index: u64,
    /// Siblings, that of the leaf first.
    pub hashes: Vec<[u8; 32]>,
    /// The signed note, as it came.
    pub checkpoint: String,
}

/// The text is not a tlog-proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a proof: {0}")]
pub struct ProofError(&'static str);

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", Base64Display::new(&self.extra, &BASE64))?;
        }
        writeln!(f, "index {}", self.index)?;
        // a receipt has twenty of them: at once, not piece by piece
        let mut lines = vec![b'\n'; self.hashes.len() * (HASH_CHARS + 1)];
        for (hash, line) in self.hashes.iter().zip(lines.chunks_exact_mut(HASH_CHARS + 1)) {
            BASE64.encode_slice(hash, &mut line[..HASH_CHARS]).map_err(|_| fmt::Error)?;
        }
        f.write_str(str::from_utf8(&lines).map_err(|_| fmt::Error)?)?;
        f.write_str("\n")?;
        f.write_str(&self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError("it has no checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ProofError("its first line is not `c2sp.org/tlog-proof@v1`"));
        }
        let mut extra = Vec::new();
        if let Some(line) = lines.next_if(|line| line.starts_with("extra ")) {
            extra = BASE64
                .decode(&line["extra ".len()..])
                .map_err(|_| ProofError("its extra line is not base64"))?;
        }
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(decimal)
            .ok_or(ProofError("it has no index"))?;
        let mut hashes = Vec::new();
        for line in lines {
            let hash = BASE64.decode(line).ok().and_then(|hash| hash.try_into().ok());
            hashes.push(hash.ok_or(ProofError("a hash is not 32 bytes in base64"))?);
            if hashes.len() > HASHES_MAX {
                return Err(ProofError("it has more than 63 hashes"));
            }
        }
        if checkpoint.is_empty() {
            return Err(ProofError("it has no checkpoint"));
        }
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Digest, note::CheckpointVerifier, tree};

    const FILE: &str = "c2sp.org/tlog-proof@v1
index 5
vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=
yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=
037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=

hub.example/log1
8
XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=

— hub.example/log1 DzYCGFpW2+KWvZRrUviC4x9wcWzIBWx91LYUkNizsf43NHZxFaXYhtmxi9PuXAHOOyQn03hNrQZPgm9/5YldloYh7wI=
— witness.example/w1 3xwKNQAAAABlU/EAIL71ezIX3Q0bcRStDSefmyDshzpttqx+bRYEbbrYNrS9zJZtMol8Cs998uvrKhgTFUlbdaJeWTuPgg3ntCmbDg==
";

    #[test]
    fn the_reference_file() {
        let sha256 = "7b3c7acd27e8e8842b34036f51d1cdb40ca7f777aabc75385290f057cca37462";
        assert_eq!(Digest::of(FILE.as_bytes()).to_string(), sha256);
        let proof: TlogProof = FILE.parse().unwrap();
        assert_eq!(proof.to_string(), FILE);
        let key = "hub.example/log1+0f360218+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        let head = CheckpointVerifier::parse(key).unwrap().verify(&proof.checkpoint).unwrap();
        let leaf = tree::leaf_hash(b"@ABC");
        assert!(tree::verify_inclusion(proof.index, head.size, &leaf, &proof.hashes, &head.root));
    }

    #[test]
    fn extra_bytes_survive() {
        let proof = TlogProof { extra: vec![7; 16], ..FILE.parse().unwrap() };
        assert_eq!(proof.to_string().parse(), Ok(proof));
    }

    #[test]
    fn what_is_not_a_proof() {
        let long = FILE.replace(
            "index 5\n",
            &format!("index 5\n{}", "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=\n".repeat(61)),
        );
        for text in [
            "",
            "c2sp.org/tlog-proof@v1\n\n",
            &FILE.replace("@v1", "@v2"),
            &FILE.replace("index 5", "index 05"),
            &FILE.replace("index 5", "index +5"),
            &FILE.replace("index 5\n", ""),
            &FILE.replace("index 5", "extra !\nindex 5"),
            &FILE.replace("index 5", "index 5\nindex 5"),
            &FILE.replace("vBoG", "vBo"),
            &FILE.replace('\n', "\r\n"),
            &long,
        ] {
            assert!(text.parse::<TlogProof>().is_err(), "{text}");
        }
    }
}
