//! RabbitMQ, one node: a quorum queue for each recipient, publisher confirms,
//! an acknowledgement for each message.
//!
//! Seen with strace (3.10.8, 3 s): 456 fdatasyncs of its log for 40 000 confirms,
//! 95 for some 8 000 whole cycles: many messages share one.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionBuilder,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable},
};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::{
    Setup,
    load::{Cycle, Figures, Peer, RECIPIENTS, Span, Work, measure},
    server::{Server, free_port},
};

/// Connections that publish; a channel each.
const CONNECTIONS: usize = 4;
/// What the node may take to tell queues of acknowledgements that it has.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);
/// Deliveries to one consumer that are not acknowledged yet.
const PREFETCH: u16 = 256;

/// Starts it and does one work.
pub async fn run(setup: &Setup, work: Work, span: Span) -> anyhow::Result<Figures> {
    let dir = setup.dir.path();
    let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
    let listeners = match &setup.tls {
        None => format!("listeners.tcp.1 = 127.0.0.1:{port}\n"),
        Some(tls) => format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
            tls.authority.display(),
            tls.certificate.display(),
            tls.key.display(),
        ),
    };
    std::fs::write(dir.join("rabbitmq.conf"), listeners)?;
    std::fs::write(dir.join("plugins"), "[].\n")?;

    // the node would start a daemon that outlives it; this one is ours to end
    let mut command = Command::new(setup.places.epmd()?);
    command.args(["-address", "127.0.0.1", "-port", &mapper.to_string()]);
    let mut epmd = Server::start("epmd", command, Signal::TERM, dir.join("epmd.log"))?;
    epmd.ready(|| async { Ok(TcpStream::connect(("127.0.0.1", mapper)).await?) }).await?;

    let mut command = Command::new(setup.places.rabbitmq()?);
    command
        .env("HOME", dir)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", mapper.to_string())
        .env("RABBITMQ_NODENAME", format!("peers-{port}@localhost"))
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", dir.join("config"))
        .env("RABBITMQ_SCHEMA_DIR", dir.join("schema"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"));
    // its shell and its VM are one group: nothing is kept, so it may end hard
    let mut server = Server::start("rabbitmq", command, Signal::KILL, dir.join("rabbitmq.log"))?;
    let scheme = if setup.tls.is_some() { "amqps" } else { "amqp" };
    let authority = setup.tls.as_ref().map(|tls| std::fs::read_to_string(&tls.authority)).transpose()?;
    let connect = || async {
        let builder = ConnectionBuilder::new()?
            .with_uri_str(format!("{scheme}://guest:guest@127.0.0.1:{port}/%2f"))
            .with_tls_config(OwnedTLSConfig { identity: None, cert_chain: authority.clone() });
        Ok(builder.connect().await?)
    };
    server.ready(connect).await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS + RECIPIENTS {
        connections.push(connect().await?);
    }
    measure(Arc::new(Queues::make(connections).await?), &server, work, span).await
}

struct Queues {
    publishers: Vec<Channel>,
    consumers: Vec<Channel>,
    connections: Vec<Connection>,
}

fn queue(recipient: usize) -> String {
    format!("letters-{recipient}")
}

impl Queues {
    async fn make(connections: Vec<Connection>) -> anyhow::Result<Self> {
        let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
        for (place, connection) in connections.iter().enumerate() {
            let channel = connection.create_channel().await?;
            if place < CONNECTIONS {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                publishers.push(channel);
            } else {
                channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
                consumers.push(channel);
            }
        }
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        for recipient in 0..RECIPIENTS {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            publishers[0].queue_declare(queue(recipient).into(), options, quorum.clone()).await?;
        }
        Ok(Self { publishers, consumers, connections })
    }
}

impl Peer for Queues {
    const CONSUMERS: usize = RECIPIENTS;

    async fn accept(&self, lane: usize, body: Bytes) -> anyhow::Result<()> {
        let publisher = &self.publishers[lane % CONNECTIONS];
        // 2 is persistent; quorum queues keep everything, and clients say it all the same
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let queue = queue(lane % RECIPIENTS).into();
        let confirmed = publisher.basic_publish("".into(), queue, options, &body, properties).await?.await?;
        anyhow::ensure!(confirmed.is_ack(), "not confirmed: {confirmed:?}");
        Ok(())
    }

    /// AMQP does not answer acknowledgements: one counts when it is sent, and
    /// `kept` sees at the end that all arrived.
    async fn consume(&self, lane: usize, cycle: &Cycle) -> anyhow::Result<()> {
        let channel = &self.consumers[lane];
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue(lane).into(), "".into(), options, FieldTable::default());
        let mut deliveries = consumer.await?;
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            delivery.ack(BasicAckOptions::default()).await?;
            cycle.acknowledged(&delivery.data)?;
        }
        anyhow::bail!("the deliveries ended")
    }

    async fn kept(&self) -> anyhow::Result<u64> {
        // a channel that ends takes along what its queue was not told yet; what
        // was delivered and not acknowledged comes back then
        let consuming = &self.connections[CONNECTIONS..];
        if consuming.iter().all(|connection| connection.status().connected()) {
            tokio::time::sleep(ACKNOWLEDGED_WITHIN).await;
        }
        for connection in consuming.iter().filter(|connection| connection.status().connected()) {
            connection.close(200, "".into()).await.context("closing a consumer's connection")?;
        }
        let mut kept = 0;
        for recipient in 0..RECIPIENTS {
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let declared =
                self.publishers[0].queue_declare(queue(recipient).into(), options, FieldTable::default());
            kept += u64::from(declared.await?.message_count());
        }
        Ok(kept)
    }
}
