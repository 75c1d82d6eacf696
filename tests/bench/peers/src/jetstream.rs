//! NATS JetStream, one server: a work queue in a file-backed stream, a subject
//! and a pull consumer for each recipient.
//!
//! Seen with strace (nats-server 2.15.1, 3 s): with `sync_interval: always` 5 401
//! fsyncs for about 4 800 messages accepted, and 4 326 for about 2 000 accepted
//! and acknowledged, so that an acknowledgement is synced as well; by default
//! none at all for 25 000.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{
    Client, ConnectOptions,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
        stream::{RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use rustix::process::Signal;

use crate::{
    Setup,
    load::{Cycle, Figures, Peer, RECIPIENTS, Span, Work, measure},
    server::{Server, free_port},
};

/// Connections that publish.
const CONNECTIONS: usize = 4;
/// Acknowledgements of one recipient that wait for their answer.
const ACKNOWLEDGEMENTS_UNDER_WAY: usize = 32;
/// Longest that an answer may take: an fsync a message makes queues.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const STREAM: &str = "letters";

/// When a message is synced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Before it is answered for
    Always,
    /// Every two minutes, as it comes: a power cut takes what was answered for
    Default,
}

/// Starts it and does one work.
pub async fn run(setup: &Setup, sync: Sync, work: Work, span: Span) -> anyhow::Result<Figures> {
    let port = free_port()?;
    let dir = setup.dir.path();
    let interval = match sync {
        Sync::Always => "sync_interval: always",
        Sync::Default => "",
    };
    let tls = setup
        .tls
        .as_ref()
        .map(|tls| format!("tls {{ cert_file: {:?}, key_file: {:?} }}", tls.certificate, tls.key));
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?}, max_file_store: 64GB\n{interval} }}\n{}\n",
        dir.join("store"),
        tls.unwrap_or_default(),
    );
    std::fs::write(dir.join("nats.conf"), config)?;
    let mut command = Command::new(setup.places.nats()?);
    command.arg("-c").arg(dir.join("nats.conf"));
    let name = match sync {
        Sync::Always => "jetstream",
        Sync::Default => "jetstream-default",
    };
    let mut server = Server::start(name, command, Signal::TERM, dir.join("nats.log"))?;
    let connect = || async {
        let mut options = ConnectOptions::new();
        if let Some(tls) = &setup.tls {
            options = options.require_tls(true).tls_client_config(tls.client()?);
        }
        Ok(options.connect(format!("127.0.0.1:{port}")).await?)
    };
    server.ready(connect).await?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS + RECIPIENTS {
        clients.push(connect().await?);
    }
    measure(Arc::new(Queue::make(clients).await?), &server, work, span).await
}

struct Queue {
    publishers: Vec<jetstream::Context>,
    consumers: Vec<PullConsumer>,
}

impl Queue {
    async fn make(clients: Vec<Client>) -> anyhow::Result<Self> {
        let context = |client| {
            jetstream::ContextBuilder::new().timeout(ANSWER_MAX).ack_timeout(ANSWER_MAX).build(client)
        };
        let mut publishers: Vec<_> = clients.into_iter().map(context).collect();
        let config = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![format!("{STREAM}.*")],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: 1,
            ..Default::default()
        };
        publishers[0].create_stream(config).await?;
        let mut consumers = Vec::new();
        for (recipient, context) in publishers.drain(CONNECTIONS..).enumerate() {
            let config = pull::Config {
                durable_name: Some(format!("recipient-{recipient}")),
                filter_subject: format!("{STREAM}.{recipient}"),
                // its own default
                max_ack_pending: 1_000,
                ..Default::default()
            };
            consumers.push(context.create_consumer_on_stream(config, STREAM).await?);
        }
        Ok(Self { publishers, consumers })
    }
}

impl Peer for Queue {
    const CONSUMERS: usize = RECIPIENTS;

    async fn accept(&self, lane: usize, body: Bytes) -> anyhow::Result<()> {
        let publisher = &self.publishers[lane % CONNECTIONS];
        publisher.publish(format!("{STREAM}.{}", lane % RECIPIENTS), body).await?.await?;
        Ok(())
    }

    /// Acknowledgements are answered too (`AckSync`), as Axis answers them.
    async fn consume(&self, lane: usize, cycle: &Cycle) -> anyhow::Result<()> {
        let messages = self.consumers[lane].stream().max_messages_per_batch(256).messages().await?;
        let mut acknowledged = messages
            .map(|message| async move {
                let message = message?;
                message.double_ack().await.map_err(anyhow::Error::from_boxed)?;
                cycle.acknowledged(&message.payload)
            })
            .buffer_unordered(ACKNOWLEDGEMENTS_UNDER_WAY);
        while let Some(one) = acknowledged.next().await {
            one?;
        }
        anyhow::bail!("the messages ended")
    }

    async fn kept(&self) -> anyhow::Result<u64> {
        let stream = self.publishers[0].get_stream(STREAM).await.context("the stream")?;
        Ok(stream.cached_info().state.messages)
    }
}
