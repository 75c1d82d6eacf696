//! A simulated ministry: one system with its home, through the public SDK.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use axis_client::{
    Client, ClientOptions, Deliveries, EnrolmentToken, Outgoing, ReceiveOptions, Received, Sent, quiet,
};
use axis_proto::id::AgencyCode;

/// A system that takes part.
pub struct Ministry {
    home: PathBuf,
    /// Its client.
    pub client: Client,
}

impl Ministry {
    /// Enrols with a token.
    pub async fn enrol(home: &Path, token: &str) -> anyhow::Result<Self> {
        let token: EnrolmentToken = token.trim().parse()?;
        Client::enrol_with(home, &token, &impatient()).await.context("enrolling")?;
        Self::at(home).await
    }

    /// The ministry of a home that was enrolled before.
    pub async fn at(home: &Path) -> anyhow::Result<Self> {
        let client = Client::connect_with(home, impatient()).await?;
        Ok(Self { home: home.to_owned(), client })
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The first of its agencies.
    pub fn agency(&self) -> AgencyCode {
        self.client.agencies().first().expect("it serves one").clone()
    }

    /// A document with one small file.
    pub fn letter(&self, to: &[&str], subject: &str) -> Outgoing {
        let file = format!("Kính gửi: {subject}").into_bytes();
        to.iter().fold(Outgoing::new(self.agency(), subject).bytes("Công văn.txt", file), |letter, to| {
            letter.to(code(to))
        })
    }

    /// Sends.
    pub async fn send(&self, outgoing: Outgoing) -> anyhow::Result<Sent> {
        Ok(self.client.send(outgoing, &quiet).await?)
    }

    /// Receives without end.
    pub async fn follow(&self) -> anyhow::Result<Deliveries> {
        Ok(self.client.receive(ReceiveOptions::following()).await?)
    }

    /// The next delivery.
    pub async fn next(&self, deliveries: &mut Deliveries) -> anyhow::Result<Received> {
        let next = tokio::time::timeout(crate::PATIENCE, deliveries.next()).await;
        Ok(next.context("nothing came")?.context("the stream ended")??)
    }
}

/// A code that is one.
pub fn code(code: &str) -> AgencyCode {
    code.parse().expect("an agency code")
}

/// Options for tests: short pauses.
pub fn impatient() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.first_pause = Duration::from_millis(20);
    options.longest_pause = Duration::from_millis(300);
    options
}
