//! Reads from the system what there is. TLS by itself asks for four KiB at a
//! time, four or five times for each of its records.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::limits::READ_AHEAD_BYTES;

/// A stream that is read ahead. Holds memory only while there is something
/// that was not asked for yet.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    ahead: BytesMut,
}

impl<S> ReadAhead<S> {
    /// Reads this one ahead.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut ahead = BytesMut::with_capacity(READ_AHEAD_BYTES);
            ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut ahead))?;
            self.ahead = ahead;
        }
        let count = buffer.remaining().min(self.ahead.len());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_what_was_written_and_nothing_is_held_behind_it() {
        let bytes: Vec<u8> = (0..3 * READ_AHEAD_BYTES + 7).map(|place| (place % 251) as u8).collect();
        for asked in [1_000, 4_096, READ_AHEAD_BYTES, 2 * READ_AHEAD_BYTES] {
            let (mut writer, reader) = tokio::io::duplex(bytes.len());
            writer.write_all(&bytes).await.unwrap();
            let mut reader = ReadAhead::new(reader);
            let mut read = vec![0; bytes.len()];
            for part in read.chunks_mut(asked) {
                reader.read_exact(part).await.unwrap();
                assert!(reader.ahead.len() <= READ_AHEAD_BYTES);
            }
            assert!(read == bytes && reader.ahead.capacity() == 0, "{asked} at a time");
            drop(writer);
            assert_eq!(reader.read(&mut [0; 10]).await.unwrap(), 0, "the end stays the end");
        }
    }
}
