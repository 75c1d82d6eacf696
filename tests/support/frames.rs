//! HTTP/2 a frame at a time, for what no client library would send.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
#[allow(missing_docs, reason = "as in RFC 9113")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flag: the last frame of its stream.
pub const END_STREAM: u8 = 1;
/// Flag: the answer to a frame of this kind.
pub const ACK: u8 = 1;
/// Flag: the last frame of its headers.
pub const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, 0 for the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// A connection to speak HTTP/2 on by hand.
pub struct Frames {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
}

impl Frames {
    /// Connects with TLS and says nothing yet. `home` says who may be called,
    /// `identity` who calls.
    pub async fn connect(address: &str, home: &Path, identity: Option<&Path>) -> anyhow::Result<Self> {
        Self::connect_with(address, crate::tls(home, identity)?).await
    }

    /// Connects with this side of TLS and says nothing yet.
    pub async fn connect_with(address: &str, config: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let connector = tokio_rustls::TlsConnector::from(config);
        let (host, _) = address.rsplit_once(':').context("host:port")?;
        let name = rustls_pki_types::ServerName::try_from(host.to_owned())?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = connector.connect(name, tcp).await?;
        let (read, write) = tokio::io::split(stream);
        Ok(Self { read, write })
    }

    /// Connects and greets; headers are asked for without a table, so that each
    /// comes as it is.
    pub async fn greet(address: &str, home: &Path, identity: Option<&Path>) -> anyhow::Result<Self> {
        let mut frames = Self::connect(address, home, identity).await?;
        frames.raw(PREFACE).await?;
        frames.send(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).await?;
        Ok(frames)
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write.write_all(bytes).await?;
        self.write.flush().await
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.raw(&frame(kind, flags, stream, payload)).await
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.read.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame of this kind on this stream; `None` if the
    /// connection ends before.
    pub async fn until(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if (frame.kind, frame.stream) == (kind, stream) {
                return Some(frame);
            }
        }
    }

    /// The same on any stream.
    pub async fn until_kind(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Whether the connection ends within the time.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        timeout(time, async { while self.next().await.is_some() {} }).await.is_ok()
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call.
pub fn call(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "axis"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| header(name, value.as_bytes())).collect()
}

/// One header, literal, not indexed.
pub fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let text = |bytes: &[u8]| [length(bytes.len()), bytes.to_vec()].concat();
    [vec![0], text(name.as_bytes()), text(value)].concat()
}

/// HPACK's integer with a prefix of 7 bits.
fn length(mut count: usize) -> Vec<u8> {
    if count < 127 {
        return vec![count as u8];
    }
    let mut bytes = vec![127];
    count -= 127;
    while count >= 128 {
        bytes.push(count as u8 | 128);
        count >>= 7;
    }
    bytes.push(count as u8);
    bytes
}
