//! The first frames of every connection: who is there, and which wire version both speak.

use std::fmt;
use std::time::Duration;

use backstay_types::frame::{Frame, Hello, WireVersion};
use backstay_types::{Class, Classify, SiteId};

use crate::control::{Control, StreamError};

/// How long the other side may take to introduce itself; ten round trips of the slowest line we know.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The wire versions a site speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub oldest: WireVersion,
    /// The newest.
    pub newest: WireVersion,
}

impl Default for VersionRange {
    /// What this program speaks.
    fn default() -> Self {
        Self { oldest: WireVersion::OLDEST, newest: WireVersion::NEWEST }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest.0, self.newest.0)
    }
}

impl VersionRange {
    /// The newest version that both speak.
    pub fn agree(self, theirs: VersionRange) -> Option<WireVersion> {
        let newest = self.newest.min(theirs.newest);
        (newest >= self.oldest && newest >= theirs.oldest).then_some(newest)
    }
}

/// Why two sites that trust each other cannot talk.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HelloError {
    /// No version in common.
    #[error(
        "agree on a wire version with {name}: it speaks {theirs} (program {program}), this site speaks {ours}"
    )]
    Versions {
        /// The peer's name.
        name: String,
        /// The peer's program version.
        program: String,
        /// What the peer speaks.
        theirs: VersionRange,
        /// What this site speaks.
        ours: VersionRange,
    },
    /// The certificate is of one site, the greeting of another.
    #[error("greet site {expected}: it calls itself {found}")]
    OtherSite {
        /// The site that the certificate belongs to.
        expected: SiteId,
        /// What it said.
        found: SiteId,
    },
    /// Something else came first.
    #[error("greet the peer: expected Hello, found {found}")]
    NotHello {
        /// What came.
        found: &'static str,
    },
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It took too long.
    #[error("greet the peer: no answer within {} s", HELLO_TIMEOUT.as_secs())]
    Timeout,
}

impl Classify for HelloError {
    fn class(&self) -> Class {
        match self {
            HelloError::Versions { .. } | HelloError::NotHello { .. } => Class::Incompatible,
            HelloError::OtherSite { .. } => Class::Unauthorized,
            HelloError::Stream(error) => error.class(),
            HelloError::Timeout => Class::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            HelloError::Versions { ours, theirs, .. } => {
                let older = if ours.newest < theirs.oldest { "this site" } else { "the peer" };
                Some(format!("upgrade backstay on {older}"))
            }
            HelloError::OtherSite { .. } => Some("pair the two sites again with a fresh key".to_owned()),
            HelloError::Stream(error) => error.hint(),
            HelloError::NotHello { .. } | HelloError::Timeout => None,
        }
    }
}

/// What this site says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) versions: VersionRange,
}

impl Greeting {
    fn frame(&self) -> Frame {
        Frame::Hello(Hello {
            newest: self.versions.newest,
            oldest: self.versions.oldest,
            site: self.site,
            name: self.name.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Says hello and hears the other side's. Whoever dialed speaks first.
    pub(crate) async fn exchange(
        &self,
        control: &mut Control,
        dialer: bool,
        expected: SiteId,
    ) -> Result<WireVersion, HelloError> {
        let exchange = async {
            if dialer {
                control.send(&self.frame()).await?;
                return self.judge(control.recv().await?, expected);
            }
            let first = control.recv().await?;
            // Answered also when the versions do not fit: the other side can then say so too.
            control.send(&self.frame()).await?;
            control.finish()?;
            self.judge(first, expected)
        };
        tokio::time::timeout(HELLO_TIMEOUT, exchange).await.unwrap_or(Err(HelloError::Timeout))
    }

    fn judge(&self, frame: Option<Frame>, expected: SiteId) -> Result<WireVersion, HelloError> {
        let hello = match frame {
            Some(Frame::Hello(hello)) => hello,
            Some(other) => return Err(HelloError::NotHello { found: other.name() }),
            None => return Err(HelloError::NotHello { found: "the end of the stream" }),
        };
        if hello.site != expected {
            return Err(HelloError::OtherSite { expected, found: hello.site });
        }
        let theirs = VersionRange { oldest: hello.oldest, newest: hello.newest };
        let (name, program) = (hello.name, hello.program);
        let none = HelloError::Versions { name, program, theirs, ours: self.versions };
        self.versions.agree(theirs).ok_or(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_used() {
        let range =
            |oldest, newest| VersionRange { oldest: WireVersion(oldest), newest: WireVersion(newest) };
        for (ours, theirs, agreed) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((2, 5), (1, 3), Some(3)),
            ((1, 2), (3, 4), None),
            ((3, 4), (1, 2), None),
            ((1, 1), (1, 9), Some(1)),
            // A range the wrong way round agrees with nothing.
            ((5, 1), (1, 5), None),
        ] {
            let agreed: Option<u16> = agreed;
            assert_eq!(range(ours.0, ours.1).agree(range(theirs.0, theirs.1)), agreed.map(WireVersion));
        }
    }
}
