//! `archive verify`: journal files with no hub in reach.

use axis_hub::{archive, disk::RealDisk, observe::words};
use axis_proto::{note::CheckpointVerifier, reason::Language};

use super::{
    args::ArchiveCommand,
    json,
    say::{Failure, Result, language, put, say, tr},
};

/// `axis-hub archive …`
pub fn archive(command: ArchiveCommand) -> Result<()> {
    let ArchiveCommand::Verify { files, keys, tree, output } = command;
    let verifiers: std::result::Result<Vec<_>, _> =
        keys.iter().map(|key| CheckpointVerifier::parse(key)).collect();
    let verifiers = verifiers.map_err(|error| Failure::new(format!("--key: {error}")))?;
    let found = archive::verify(&RealDisk, &files, &verifiers, tree.as_deref())
        .map_err(|error| Failure::damaged(error.to_string()))?;
    if output.json {
        json::put(&serde_json::to_value(&found).map_err(|error| Failure::new(error.to_string()))?);
        return Ok(());
    }
    let lang = language();
    let count = |number| words::count(lang, number);
    let (first, end) = (found.first_sequence, found.first_sequence + found.records);
    put(match lang {
        Language::En => format!(
            "{} records, from {first} up to before {end}, in {} batches and {} files are whole; \
             {} pieces of content and lists are there, {} were erased",
            count(found.records),
            count(found.batches),
            found.segments,
            count(found.cargo),
            count(found.erased)
        ),
        Language::Vi => format!(
            "{} bản ghi, từ {first} đến trước {end}, trong {} lô và {} tệp đều nguyên vẹn; \
             còn {} phần nội dung và danh sách, {} phần đã xóa",
            count(found.records),
            count(found.batches),
            found.segments,
            count(found.cargo),
            count(found.erased)
        ),
    });
    put(match (found.roots_proven, found.signatures_proven) {
        (true, true) => tr(
            "they are records of the log that this key signs: roots and signatures hold",
            "đây là các bản ghi của nhật ký do khóa này ký: gốc cây băm và chữ ký đều đúng",
        ),
        (true, false) => tr(
            "the roots of their checkpoints hold; who signed them was not checked",
            "gốc cây băm của các điểm kiểm đều đúng; chưa kiểm tra ai đã ký",
        ),
        (false, true) => tr(
            "the signatures of their checkpoints hold; that they speak of these records was not checked",
            "chữ ký của các điểm kiểm đều đúng; chưa kiểm tra chúng nói về chính các bản ghi này",
        ),
        (false, false) => tr(
            "only that the files are whole and follow each other was checked",
            "mới chỉ kiểm tra rằng các tệp nguyên vẹn và nối tiếp nhau",
        ),
    });
    if !found.roots_proven {
        say(tr(
            "hint: name a copy of data/tree with --tree, or begin with the log's first file",
            "gợi ý: chỉ ra bản sao của data/tree bằng --tree, hoặc bắt đầu từ tệp đầu tiên của nhật ký",
        ));
    }
    if !found.signatures_proven {
        say(tr(
            "hint: name the log's verifier key with --key",
            "gợi ý: chỉ ra khóa kiểm chứng của nhật ký bằng --key",
        ));
    }
    Ok(())
}
