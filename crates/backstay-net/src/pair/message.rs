//! What issuer and joiner say, on one stream of a connection with the pairing protocol: length (4 bytes,
//! little-endian), body in postcard. The protocol's version is in its name, `backstay-pair/1`.
//!
//! ```text
//! joiner → Join    key id, proof, who and where it is
//! issuer → Offer   proof, pair, hashing key, chunk parameters      or  Refused
//! joiner → Stored  the pair is durable there
//! issuer → Done    and here
//! ```

use std::fmt;
use std::time::Duration;

use backstay_types::{ChunkParams, HashKey, PairId, PlanName, SiteId};
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::window::KeyId;
use crate::book::check_params;
use crate::control::StreamError;
use crate::endpoint::{ENDPOINTS_MAX, is_endpoint};

/// A `Join` with the most endpoints takes under 2.5 KiB.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// How long one message may take. Disk syncs on the other side are inside.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) key: KeyId,
    pub(crate) proof: [u8; 32],
    pub(crate) site: SiteId,
    pub(crate) name: String,
    /// Where the operator says the joiner is reached; if nowhere, at the address it comes from and this port.
    pub(crate) endpoints: Vec<String>,
    pub(crate) port: u16,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) proof: [u8; 32],
    pub(crate) pair: PairId,
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) hash_key: HashKey,
    pub(crate) params: ChunkParams,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Wrong,
    Expired,
    Used,
    Closed,
    /// The joiner's name belongs to another peer of the issuer.
    NameTaken,
    /// The issuer failed.
    Failed(String),
    /// The issuer knows the joiner's site by another authority than the joiner presents.
    OtherAuthority,
    /// The key was made for a site that takes the place of another, and the issuer knows none of that name.
    NothingToReplace,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Offer(Offer),
    Refused(Refusal),
}

/// The third message.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stored {}

/// The last message.
#[derive(Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Failed(String),
}

/// Why a message did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("a message of {bytes} bytes: at most {MESSAGE_BYTES_MAX} allowed")]
    TooLong { bytes: usize },
    #[error("a message does not decode: {why}")]
    Damaged { why: &'static str },
    #[error("no answer within {} s", MESSAGE_TIMEOUT.as_secs())]
    Timeout,
}

/// Bounds a message must keep.
pub(crate) trait Check {
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Check for Join {
    fn check(&self) -> Result<(), &'static str> {
        if self.name.parse::<PlanName>().is_err() {
            return Err("the site name is none");
        }
        if self.endpoints.len() > ENDPOINTS_MAX
            || !self.endpoints.iter().all(|endpoint| is_endpoint(endpoint))
        {
            return Err("the endpoints are none");
        }
        Ok(())
    }
}

impl Check for Answer {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Answer::Offer(offer) if offer.name.parse::<PlanName>().is_err() => Err("the site name is none"),
            Answer::Offer(offer) => check_params(&offer.params),
            Answer::Refused(_) => Ok(()),
        }
    }
}

impl Check for Stored {}
impl Check for Outcome {}

/// The stream of one pairing.
pub(crate) struct Talk {
    send: SendStream,
    recv: RecvStream,
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Talk")
    }
}

impl Talk {
    pub(crate) fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send, recv }
    }

    pub(crate) async fn say<T: Serialize>(&mut self, message: &T) -> Result<(), MessageError> {
        // Extending a vector cannot fail; postcard's error type covers other sinks.
        let bytes = postcard::to_extend(message, vec![0; 4]).expect("a vector grows");
        let mut bytes = zeroize::Zeroizing::new(bytes);
        let length = bytes.len().saturating_sub(4);
        let header = u32::try_from(length).map_err(|_| MessageError::TooLong { bytes: length })?;
        if let Some(place) = bytes.first_chunk_mut::<4>() {
            *place = header.to_le_bytes();
        }
        Ok(self.send.write_all(&bytes).await.map_err(StreamError::from)?)
    }

    pub(crate) async fn hear<T: DeserializeOwned + Check>(&mut self) -> Result<T, MessageError> {
        tokio::time::timeout(MESSAGE_TIMEOUT, self.read()).await.unwrap_or(Err(MessageError::Timeout))
    }

    async fn read<T: DeserializeOwned + Check>(&mut self) -> Result<T, MessageError> {
        let mut header = [0; 4];
        self.fill(&mut header).await?;
        let bytes = u32::from_le_bytes(header) as usize;
        if bytes > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong { bytes });
        }
        let mut body = zeroize::Zeroizing::new(vec![0; bytes]);
        self.fill(&mut body).await?;
        let damaged = |why| MessageError::Damaged { why };
        match postcard::take_from_bytes::<T>(&body) {
            Ok((message, [])) => message.check().map_err(damaged).map(|()| message),
            Ok(_) => Err(damaged("bytes are left over")),
            Err(_) => Err(damaged("the fields do not decode")),
        }
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MessageError> {
        match self.recv.read_exact(buffer).await {
            Ok(()) => Ok(()),
            Err(quinn::ReadExactError::FinishedEarly(bytes)) => Err(StreamError::Truncated { bytes }.into()),
            Err(quinn::ReadExactError::ReadError(error)) => Err(StreamError::from(error).into()),
        }
    }

    /// Waits, within bounds, until the other side has the last message.
    pub(crate) async fn finish(&mut self) {
        let delivered = async {
            self.send.finish().map_err(|_| StreamError::Ended)?;
            crate::control::delivered(&mut self.send).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(MESSAGE_TIMEOUT, delivered).await {
            tracing::debug!(%error, "failed to deliver the last message of a pairing");
        }
    }
}
