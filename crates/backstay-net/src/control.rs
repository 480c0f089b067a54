//! Control streams: frames both ways, in order.
//!
//! 1. A frame's length is checked against its limit when its header is there, before anything is kept for it.
//! 2. `recv` may be dropped at any point and called again: what arrived is kept.
//! 3. At most one frame and one read (1 MiB + 64 KiB) are in memory per stream.
//!
//! Dropping the sending half ends the stream as `finish` does; a protocol that must tell a clean end from a broken
//! one says so in a frame.

use backstay_types::frame::{Frame, FrameError, HEADER_BYTES};
use backstay_types::{Class, Classify};
use bytes::{Buf, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use crate::close::{CloseReason, code};
use crate::connection::Busy;

/// What is taken from the QUIC library at once.
const READ_BYTES: usize = 64 << 10;

/// Why a stream failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// The connection ended.
    #[error("reach the peer: {reason}")]
    Lost {
        /// Why it ended.
        reason: CloseReason,
    },
    /// The peer gave the stream up.
    #[error("talk to the peer: it gave up the stream (code {code})")]
    Stopped {
        /// Its reason.
        code: u64,
    },
    /// The stream ended inside a frame.
    #[error("read a frame: the stream ended after {bytes} bytes of it")]
    Truncated {
        /// What was there.
        bytes: usize,
    },
    /// A frame cannot be read or written.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Used after its end.
    #[error("use a stream after its end")]
    Ended,
}

impl Classify for StreamError {
    fn class(&self) -> Class {
        match self {
            StreamError::Lost { reason } => reason.class(),
            StreamError::Stopped { .. } | StreamError::Truncated { .. } => Class::Transient,
            StreamError::Frame(error) => error.class(),
            StreamError::Ended => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StreamError::Lost { reason } => reason.hint(),
            _ => None,
        }
    }
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> Self {
        StreamError::Lost { reason: error.into() }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => StreamError::Stopped { code: code.into_inner() },
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Ended,
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => StreamError::Stopped { code: code.into_inner() },
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                StreamError::Ended
            }
        }
    }
}

/// A control stream.
#[derive(Debug)]
pub struct Control {
    send: ControlSend,
    recv: ControlRecv,
}

impl Control {
    pub(crate) fn new(send: SendStream, recv: RecvStream, busy: Busy) -> Self {
        Self {
            send: ControlSend { stream: send, _busy: busy.clone() },
            recv: ControlRecv { stream: recv, buffer: BytesMut::new(), ended: false, _busy: busy },
        }
    }

    /// Sends a frame. Not to be dropped half-way: the frame would be cut.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), StreamError> {
        self.send.send(frame).await
    }

    /// The next frame; `None` when the peer finished. May be dropped and called again.
    pub async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        self.recv.recv().await
    }

    /// Says that nothing more will be sent. What was sent still arrives.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.send.finish()
    }

    /// The two halves, to be used at the same time.
    pub fn split(self) -> (ControlSend, ControlRecv) {
        (self.send, self.recv)
    }

    /// Waits until the peer has all that was sent, after `finish`.
    pub(crate) async fn delivered(&mut self) -> Result<(), StreamError> {
        delivered(&mut self.send.stream).await
    }

    /// Takes no more from the stream; what was sent still arrives.
    pub(crate) fn refuse(&mut self) {
        // Either fails only if that direction is over, which is what is wanted.
        if self.recv.stream.stop(code::REFUSED).is_err() || self.send.stream.finish().is_err() {
            tracing::trace!("a refused stream had ended already");
        }
    }
}

/// Waits until the peer has all of a finished stream.
pub(crate) async fn delivered(stream: &mut SendStream) -> Result<(), StreamError> {
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(code)) => Err(StreamError::Stopped { code: code.into_inner() }),
        Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
        Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Ended),
    }
}

/// The sending half of a control stream.
#[derive(Debug)]
pub struct ControlSend {
    stream: SendStream,
    _busy: Busy,
}

impl ControlSend {
    /// Sends a frame. Not to be dropped half-way: the frame would be cut.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), StreamError> {
        let bytes = frame.encode()?;
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// Says that nothing more will be sent. What was sent still arrives.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.stream.finish().map_err(|_| StreamError::Ended)
    }
}

/// The receiving half of a control stream.
#[derive(Debug)]
pub struct ControlRecv {
    stream: RecvStream,
    buffer: BytesMut,
    ended: bool,
    _busy: Busy,
}

impl ControlRecv {
    /// The next frame; `None` when the peer finished. May be dropped and called again.
    pub async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.ended {
                let bytes = self.buffer.len();
                return if bytes == 0 { Ok(None) } else { Err(StreamError::Truncated { bytes }) };
            }
            match self.stream.read_chunk(READ_BYTES, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => self.ended = true,
            }
        }
    }
}

/// Takes the first frame out of `buffer`, if it is there whole.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (kind, length) = Frame::decode_header(*header)?;
    let Some(body) = buffer.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
    let frame = Frame::decode(kind, body)?;
    buffer.advance(HEADER_BYTES + length);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_types::frame::Done;
    use backstay_types::limits;

    #[test]
    fn frames_are_taken_whole_and_in_order() {
        let one = Frame::Done(Done {}).encode().unwrap();
        let mut buffer = BytesMut::new();
        for byte in one.iter().chain(&one) {
            assert_eq!(take_frame(&mut buffer).unwrap(), None);
            buffer.extend_from_slice(&[*byte]);
            if buffer.len() == one.len() {
                assert_eq!(take_frame(&mut buffer).unwrap(), Some(Frame::Done(Done {})));
            }
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_length_over_the_limit_is_refused_at_its_header() {
        let max = u32::try_from(limits::FRAME_BYTES_MAX).unwrap();
        for (length, refused) in [(max, false), (max + 1, true), (u32::MAX, true)] {
            let mut buffer = BytesMut::from(&[1][..]);
            buffer.extend_from_slice(&length.to_le_bytes());
            let taken = take_frame(&mut buffer);
            assert_eq!(matches!(taken, Err(FrameError::TooLong { .. })), refused, "{taken:?}");
        }
    }
}
