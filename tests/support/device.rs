//! A file system of its own on a loop device, whose power can be cut: what
//! the kernel had not yet written to the device is lost then. Needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// ext4 on a loop device, mounted; unmounted and detached when dropped.
#[derive(Debug)]
pub struct Device {
    folder: PathBuf,
    image: PathBuf,
    images: u32,
    /// The loop device, while one is attached.
    node: Option<String>,
    mounted: bool,
}

impl Device {
    /// Makes a file system of so many bytes, in a file in `folder`, and mounts
    /// it there.
    pub fn make(folder: &Path, bytes: u64) -> anyhow::Result<Self> {
        let image = folder.join("disk-0");
        std::fs::File::create_new(&image)?.set_len(bytes)?;
        // nothing may be left for later: the kernel would write it in the
        // midst of a cut
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        // and nothing is kept back for root, whom a test is
        let mut make = vec!["-q", "-F", "-m", "0", "-E", options];
        let image_name = image.to_str().context("a path in UTF-8")?;
        make.push(image_name);
        let make: Vec<&std::ffi::OsStr> = make.into_iter().map(AsRef::as_ref).collect();
        run("mkfs.ext4", &make)?;
        std::fs::create_dir(folder.join("mounted"))?;
        let mut device = Self { folder: folder.to_owned(), image, images: 1, node: None, mounted: false };
        device.mount()?;
        Ok(device)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    /// Makes everything on it durable, as after a quiet while.
    pub fn sync(&self) -> anyhow::Result<()> {
        run("sync", &["-f".as_ref(), self.path().as_os_str()]).map(drop)
    }

    /// Cuts the power and gives it back: what is mounted afterwards is what
    /// the device held at this moment. Nobody may have files open on it.
    pub fn cut(&mut self) -> anyhow::Result<()> {
        let next = self.folder.join(format!("disk-{}", self.images));
        self.images += 1;
        run("cp", &["--sparse=always".as_ref(), self.image.as_os_str(), next.as_os_str()])?;
        // what this writes goes to the old image, which nobody will see
        self.release()?;
        std::fs::remove_file(&self.image)?;
        self.image = next;
        self.mount()
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let node = run("losetup", &["--find".as_ref(), "--show".as_ref(), self.image.as_os_str()])?;
        self.node = Some(node.clone());
        // the kernel's own commits would only help: five minutes apart
        let path = self.path();
        run("mount", &["-o".as_ref(), "commit=300".as_ref(), node.as_ref(), path.as_os_str()])?;
        self.mounted = true;
        Ok(())
    }

    fn release(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            run("umount", &[self.path().as_os_str()])?;
            self.mounted = false;
        }
        if let Some(node) = self.node.take() {
            run("losetup", &["--detach".as_ref(), node.as_ref()])?;
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("left behind: {error:#}");
        }
        let _gone = std::fs::remove_file(&self.image);
        let _gone = std::fs::remove_dir(self.path());
    }
}

/// Runs a command of the system, and returns what it said.
fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
