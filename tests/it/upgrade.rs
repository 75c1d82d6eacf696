//! An older release that finds what a later one wrote refuses it by name, and
//! leaves it as it is; a later one opens what it finds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use axis_hub::{
    disk::{RealDisk, version},
    evidence::tree,
    journal, machine, state, vault,
};
use axis_tests::{TestHub, binary, copy};

/// Every file under a directory with its bytes, but for what says who runs.
fn whole(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(whole(&path)?);
        } else if !path.ends_with("lock") && !path.ends_with("admin.sock") {
            files.insert(path.clone(), std::fs::read(path)?);
        }
    }
    Ok(files)
}

/// Copies a home in whose files a client is still at work: a moment at which
/// they did not change.
async fn copy_still(from: &Path, to: &Path) -> anyhow::Result<()> {
    axis_tests::eventually("a copy of a moment", async || {
        let _before = std::fs::remove_dir_all(to);
        let names = |dir: &Path, files: BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
            let below = |path: PathBuf| path.strip_prefix(dir).map(Path::to_owned).unwrap_or(path);
            files.into_iter().map(|(path, bytes)| (below(path), bytes)).collect()
        };
        let Ok(before) = whole(from) else { return false };
        copy(from, to).is_ok() && whole(to).is_ok_and(|copied| names(to, copied) == names(from, before))
    })
    .await;
    Ok(())
}

/// What a command says when it refuses; and nothing may have changed.
fn refused(kept: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let before = whole(kept)?;
    let output = Command::new(binary(name)?).args(arguments).env("LC_ALL", "C").output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(!output.status.success(), "{name} {}: {words}", arguments.join(" "));
    anyhow::ensure!(before == whole(kept)?, "{name} {} changed something", arguments.join(" "));
    Ok(words)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A segment whose header says the next version, and is whole.
fn raise_segment(path: &Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    bytes[8..12].copy_from_slice(&(journal::FORMAT_VERSION + 1).to_le_bytes());
    let mut crc = u32::MAX;
    for byte in &bytes[..72] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    bytes[72..76].copy_from_slice(&(!crc).to_le_bytes());
    Ok(std::fs::write(path, bytes)?)
}

fn segment_of(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    segments.retain(|path| path.extension().is_some_and(|end| end == "segment"));
    segments.sort();
    segments.pop().context("a segment")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_hub_wrote_is_refused_by_name_and_left_as_it_is() -> anyhow::Result<()> {
    let mut hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    hub.ministry("byt", &["G18"]).await?;
    vpcp.send(vpcp.letter(&["G18"], "Có tệp").bytes("a.bin", vec![7; 70_000])).await?;
    hub.hub().context().committer.roll().await?;
    vpcp.send(vpcp.letter(&["G18"], "Sau đó")).await?;
    hub.stop().await;
    let (path, folder) = (hub.path(), tempfile::tempdir()?);
    let backup = folder.path().join("backup");
    axis_tests::run_hub(&path, &["backup", text(&backup)])?;

    // each store that says it in a file of its own, and each thing in it
    let (layout, own) = (machine::LAYOUT_VERSION, state::FORMAT_VERSION);
    let stores: [(&str, &'static [&'static str], &[u32]); 4] = [
        ("tree", &["tree"], &[tree::FORMAT_VERSION]),
        ("state", &["state", "layout"], &[own, layout]),
        ("snapshots", &["snapshots", "layout"], &[own, layout]),
        ("vault", &["upload marks"], &[vault::MARK_VERSION]),
    ];
    for (store, things, versions) in stores {
        for raised in 0..things.len() {
            let later = folder.path().join("later");
            copy(&path, &later)?;
            let dir = later.join("data").join(store);
            let formats = things.iter().zip(versions).enumerate();
            let formats: Vec<_> =
                formats.map(|(at, (thing, version))| (*thing, version + u32::from(at == raised))).collect();
            version::mark(&RealDisk, &dir, &formats)?;
            let (thing, found, read) = (things[raised], versions[raised] + 1, versions[raised]);
            let named = format!(
                "{}: {thing} has format version {found}, this release reads {read}; use the release that wrote it",
                dir.join("version").display()
            );
            for command in ["serve", "fsck"] {
                let words = refused(&later.join("data"), "axis-hub", &["--dir", text(&later), command])?;
                assert!(words.contains(&named), "{store}: {words}");
                assert_eq!(words.contains("axis-hub rebuild"), store != "vault", "{words}");
            }
            if store != "vault" {
                // whoever wants to go back a release makes them anew
                axis_tests::run_hub(&later, &["rebuild"])?;
                axis_tests::check(&later, hub.verifier())?;
            }
            std::fs::remove_dir_all(later)?;
        }
    }

    // the journal, in each of its segments; and what was made from one
    let later = folder.path().join("later");
    copy(&path, &later)?;
    let segment = segment_of(&later.join("data/journal"))?;
    raise_segment(&segment)?;
    let named = |path: &Path| {
        format!(
            "{}: format version {}, this release reads {}; use the release that wrote it",
            path.display(),
            journal::FORMAT_VERSION + 1,
            journal::FORMAT_VERSION
        )
    };
    let copied = folder.path().join("copied");
    for (name, arguments) in [
        ("serve", vec!["--dir", text(&later), "serve"]),
        ("fsck", vec!["--dir", text(&later), "fsck"]),
        ("rebuild", vec!["--dir", text(&later), "rebuild"]),
        ("backup", vec!["--dir", text(&later), "backup", text(&copied)]),
        ("archive", vec!["archive", "verify", text(&segment)]),
        ("restore", vec!["--dir", text(&copied), "restore", text(&later), "--new-key"]),
    ] {
        let words = refused(&later.join("data"), "axis-hub", &arguments)?;
        assert!(words.contains(&named(&segment)), "{name}: {words}");
    }
    std::fs::remove_dir_all(&later)?;

    // a backup's manifest, and its segments
    let restored = folder.path().join("restored");
    let manifest = backup.join("manifest.json");
    let whole = std::fs::read_to_string(&manifest)?;
    let raised = whole.replacen("\"format\": 1", "\"format\": 2", 1);
    assert_ne!(raised, whole);
    std::fs::write(&manifest, raised)?;
    let named = format!(
        "{}: format version 2, this release reads 1; use the release that made it",
        manifest.display()
    );
    for arguments in [
        vec!["--dir", text(&path), "backup", text(&backup)],
        vec!["backup", text(&backup), "--verify"],
        vec!["--dir", text(&restored), "restore", text(&backup), "--new-key"],
    ] {
        let words = refused(&backup, "axis-hub", &arguments)?;
        assert!(words.contains(&named), "{arguments:?}: {words}");
        assert!(!restored.exists(), "nothing was made");
    }
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_before_is_opened_and_says_its_versions_from_then_on() -> anyhow::Result<()> {
    let mut hub = TestHub::start().await?;
    hub.ministry("vpcp", &["G22"]).await?;
    hub.stop().await;
    let data = hub.path().join("data");
    let files = ["tree", "state", "snapshots", "vault"].map(|store| data.join(store).join(version::FILE));
    let said: Vec<String> = files.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    for file in &files {
        std::fs::remove_file(file)?;
    }
    // one that a crash has damaged says nothing
    std::fs::write(&files[0], "tree 9\n")?;
    hub.resume().await?;
    hub.stop().await;
    for (file, said) in files.iter().zip(said) {
        assert_eq!(std::fs::read_to_string(file)?, said, "{}", file.display());
    }
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_a_later_release_wrote_is_refused_by_name() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    // nobody else works with this one
    let folder = tempfile::tempdir()?;
    let home = folder.path().join("home");
    copy_still(vpcp.home(), &home).await?;
    drop(vpcp);
    let profile = home.join("axis.toml");
    let said = std::fs::read_to_string(&profile)?;
    let raised = said.replacen("format = 1", "format = 2", 1);
    assert_ne!(raised, said);
    std::fs::write(&profile, raised)?;
    let words = refused(&home, "axis", &["--home", text(&home), "--lang", "en", "send", "--pending"])?;
    let named = format!(
        "{} has format version 2, this release reads 1; use the release that wrote it",
        profile.display()
    );
    assert!(words.contains(&named), "{words}");
    let words = refused(&home, "axis", &["--home", text(&home), "--lang", "vi", "feed"])?;
    assert!(words.contains("có định dạng phiên bản 2"), "{words}");

    // as it was before there were versions
    std::fs::write(&profile, said.replacen("format = 1\n", "", 1))?;
    let again = axis_tests::Ministry::at(&home).await?;
    again.client.info().await?;
    hub.finish().await?;
    Ok(())
}
