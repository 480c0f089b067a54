//! Automatic failover, as an operator asks for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::InvalidPlan;
use crate::Span;

/// When the standby takes over by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutomaticFailover {
    /// After how long without a sign of the active side: 5 s to 1 d. The active side, cut off from the witness and from
    /// its peer, begins to hold its controllers after half of it.
    pub after: Span,
    /// Which kind of witness both sites must have set up in `site.toml`; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessKind>,
}

/// Where the lease is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WitnessKind {
    /// A `backstay witness`.
    Server,
    /// A Lease in a third cluster.
    Lease,
    /// A folder on storage that both sites share.
    File,
}

impl WitnessKind {
    /// As it stands in a plan.
    pub const fn as_str(self) -> &'static str {
        match self {
            WitnessKind::Server => "server",
            WitnessKind::Lease => "lease",
            WitnessKind::File => "file",
        }
    }
}

impl AutomaticFailover {
    /// The shortest time without a sign of life: below it, three questions to a witness across a WAN do not fit before
    /// the active side has to hold.
    pub const AFTER_MIN: Span = Span::from_secs(5);
    /// The longest: beyond it a person is quicker.
    pub const AFTER_MAX: Span = Span::from_secs(24 * 3600);

    /// Checks what the types alone cannot.
    pub(super) fn validate(&self) -> Result<(), InvalidPlan> {
        if (Self::AFTER_MIN..=Self::AFTER_MAX).contains(&self.after) {
            Ok(())
        } else {
            Err(InvalidPlan::FailoverAfter { found: self.after })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_has_bounds() {
        for (after, fits) in
            [("4999ms", false), ("5s", true), ("60s", true), ("1d", true), ("86400001ms", false)]
        {
            let after = after.parse().expect("a duration");
            assert_eq!(AutomaticFailover { after, witness: None }.validate().is_ok(), fits, "{after}");
        }
    }
}
