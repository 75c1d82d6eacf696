//! How far something long has come.

/// A step forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub step: Step,
    /// The file it is about; empty if about none.
    pub name: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; zero if not known.
    pub total: u64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A file is read and its digest made.
    Reading,
    /// A large file goes to the hub.
    Uploading,
    /// The envelope goes to the hub.
    Submitting,
    /// A large file comes from the hub.
    Downloading,
}

/// Is told of every step; must be quick.
pub type Watch<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

/// Watches nothing.
pub fn quiet(_: Progress<'_>) {}
