//! A system that is connected and receives, in a few kilobytes: HTTP/2 a
//! frame at a time, so that ten thousand of them leave the processor to the
//! hub.

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use axis_proto::hub::v1::{
    Credit, ReceiveRequest, ReceiveResponse, ReceiveStart, TaggedAcknowledge, receive_request::Part as Ask,
    receive_response::Part as Said,
};
use axis_tests::{
    acknowledge,
    crowd::Member,
    frames::{ACK, END_HEADERS, END_STREAM, Frames, PREFACE, call, frame, kind},
};
use prost::Message as _;
use rustls::ClientConfig;
use tokio::sync::mpsc::UnboundedSender;

/// Deliveries that one may be sent without asking again.
const CREDIT: u32 = 16;
/// The stream that receives; a client's first.
const STREAM: u32 = 1;
/// Bytes after which the hub is let send as many more: half of HTTP/2's own
/// window.
const WINDOW_BYTES: u32 = 32 * 1024;
/// Bytes before each message of gRPC.
const PREFIX_BYTES: usize = 5;

/// A delivery that came: whose, and when.
pub type Came = (usize, Instant);

/// A connection with an open receive stream.
pub struct Attending {
    frames: Frames,
    /// Of a message that is not whole yet.
    came: Vec<u8>,
    /// Bytes that the hub has not been let send again.
    unread: u32,
}

impl Attending {
    /// Connects, and waits until the hub says where the mailbox stands.
    pub async fn begin(address: &str, tls: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let mut frames = Frames::connect_with(address, tls).await?;
        let start = ReceiveStart { credit: CREDIT, ..ReceiveStart::default() };
        let hello = [
            PREFACE.to_vec(),
            frame(kind::SETTINGS, 0, 0, &[]),
            frame(kind::HEADERS, END_HEADERS, STREAM, &call("/axis.hub.v1.MailboxService/Receive")),
            asked(Ask::Start(start)),
        ];
        frames.raw(&hello.concat()).await?;
        let mut attending = Self { frames, came: Vec::new(), unread: 0 };
        match attending.next().await? {
            Said::Progress(_) => Ok(attending),
            other => anyhow::bail!("not how a receive stream begins: {other:?}"),
        }
    }

    /// Takes and acknowledges what comes, and says so, for as long as the
    /// connection lives.
    pub async fn stay(
        mut self,
        member: &Member,
        place: usize,
        tell: &UnboundedSender<Came>,
    ) -> anyhow::Error {
        loop {
            match self.next().await {
                Ok(Said::Delivery(delivery)) => {
                    let _nobody_asks = tell.send((place, Instant::now()));
                    let request = Some(acknowledge(&member.key, &delivery));
                    let answer = asked(Ask::Acknowledge(TaggedAcknowledge { tag: 1, request }));
                    let more = asked(Ask::Credit(Credit { deliveries: 1 }));
                    if let Err(error) = self.frames.raw(&[answer, more].concat()).await {
                        return error.into();
                    }
                }
                Ok(Said::Closing(closing)) => return anyhow::anyhow!("the hub closes: {closing:?}"),
                Ok(Said::Progress(_) | Said::Gone(_) | Said::Answer(_)) => {}
                Err(error) => return error,
            }
        }
    }

    /// What the hub says next; what HTTP/2 itself asks is answered meanwhile.
    async fn next(&mut self) -> anyhow::Result<Said> {
        loop {
            if let Some(said) = self.whole()? {
                return Ok(said);
            }
            let next = self.frames.next().await.context("the connection ended")?;
            // ACK is the same bit
            match (next.kind, next.flags & END_STREAM) {
                (kind::PING, 0) => self.frames.send(kind::PING, ACK, 0, &next.payload).await?,
                (kind::SETTINGS, 0) => self.frames.send(kind::SETTINGS, ACK, 0, &[]).await?,
                (kind::DATA, _) => {
                    self.came.extend_from_slice(&next.payload);
                    self.unread += next.payload.len() as u32;
                    if self.unread >= WINDOW_BYTES {
                        let more = std::mem::take(&mut self.unread).to_be_bytes();
                        let both = [0, STREAM].map(|stream| frame(kind::WINDOW_UPDATE, 0, stream, &more));
                        self.frames.raw(&both.concat()).await?;
                    }
                }
                (kind::RST_STREAM | kind::GOAWAY, _) | (kind::HEADERS, END_STREAM) => {
                    anyhow::bail!("the hub ended it: {}", String::from_utf8_lossy(&next.payload))
                }
                _ => {}
            }
        }
    }

    /// The first message if it is whole.
    fn whole(&mut self) -> anyhow::Result<Option<Said>> {
        let Some((prefix, rest)) = self.came.split_at_checked(PREFIX_BYTES) else { return Ok(None) };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let said = ReceiveResponse::decode(message)?.part.context("a message that says nothing")?;
        self.came.drain(..PREFIX_BYTES + length);
        if self.came.is_empty() {
            // most wait for hours with nothing to keep
            self.came = Vec::new();
        }
        Ok(Some(said))
    }
}

/// A message as a frame of its own.
fn asked(part: Ask) -> Vec<u8> {
    let message = ReceiveRequest { part: Some(part) }.encode_to_vec();
    let length = (message.len() as u32).to_be_bytes();
    frame(kind::DATA, 0, STREAM, &[&[0], &length[..], &message].concat())
}
