//! What status says of a lease: who would do what, and when.

use backstay_engine::lease::{Mono, Stance, Terms, Waits};
use backstay_types::{PlanName, SiteId, Span};

use crate::api_types::AutomaticStatus;
use crate::clock;
use crate::plans::PlanRecord;
use crate::site::Site;

/// A lease as its task saw it last.
#[derive(Debug, Clone)]
pub(super) enum View {
    Active {
        reached: Option<bool>,
        failure: Option<String>,
        holder: Option<SiteId>,
        good: Option<Mono>,
        holds_at: Option<Mono>,
        stance: Stance,
        is_overdue: bool,
        after: Span,
    },
    Standby {
        reached: Option<bool>,
        failure: Option<String>,
        holder: Option<SiteId>,
        silent_since: Option<Mono>,
        waits: Waits,
    },
}

impl Site {
    /// The status of a plan's automatic failover; `None` if it wants none and has no lease that could be taken.
    pub(crate) fn automatic_status(&self, record: &PlanRecord) -> Option<AutomaticStatus> {
        if !self.wants_lease(record) {
            return None;
        }
        let wanted = record.spec.automatic_failover.as_ref().map(|wanted| wanted.after);
        let now = clock::mono();
        let witness = self.config.load().witness.as_ref().map(|witness| witness.url.to_string());
        // The fingerprint is no secret, and says nothing here.
        let witness = witness.map(|url| url.split('#').next().unwrap_or_default().to_owned());
        let view = self.leases.view(&record.name);
        let mut status = AutomaticStatus {
            witness,
            reachable: false,
            holder: None,
            lease_age_seconds: None,
            after_seconds: wanted.unwrap_or_default().as_secs_f64(),
            would_do: "nothing yet: the witness was not asked yet".to_owned(),
            error: None,
            warning: self.unguarded(record),
        };
        let Some(view) = view else { return Some(status) };
        let (reached, failure, holder, since) = match &view {
            View::Active { reached, failure, holder, good, .. } => (reached, failure, holder, good),
            View::Standby { reached, failure, holder, silent_since, .. } => {
                (reached, failure, holder, silent_since)
            }
        };
        status.reachable = *reached == Some(true);
        status.holder = holder.map(|holder| self.site_name(record, holder));
        status.lease_age_seconds = since.map(|since| now.since(since).as_secs_f64());
        status.error.clone_from(failure);
        status.would_do = view.would_do(now);
        if let (None, View::Active { after, .. }) = (wanted, &view) {
            status.after_seconds = after.as_secs_f64();
            status.would_do =
                "this side gives its lease back: until it has, the peer may take over".to_owned();
        }
        Some(status)
    }

    /// Name of one of the two sites of a plan.
    fn site_name(&self, record: &PlanRecord, site: SiteId) -> String {
        if site == self.id {
            return self.name.clone();
        }
        match self.peer(record.pair) {
            Ok(peer) if peer.site == site => peer.name.clone(),
            _ => site.to_string(),
        }
    }
}

impl super::Leases {
    fn view(&self, plan: &PlanName) -> Option<View> {
        self.views.lock().expect(super::POISONED).get(plan).cloned()
    }
}

impl View {
    fn would_do(&self, now: Mono) -> String {
        match self {
            View::Active { stance, holds_at, is_overdue, after, .. } => {
                let left = || seconds(holds_at.map_or(Span(0), |at| at.since(now)));
                match stance {
                    _ if *is_overdue => {
                        "this side should be held and is not: the peer may take over".to_owned()
                    }
                    Stance::Running if holds_at.is_none() => {
                        "nothing: there is no lease at the witness yet".to_owned()
                    }
                    Stance::Running => {
                        let take = seconds(Terms::new(*after).take_after());
                        format!(
                            "this side holds in {} unless the witness or the peer answers; the peer promotes {take} \
                             after the last sign",
                            left()
                        )
                    }
                    Stance::Holding => "this side is holding what runs here".to_owned(),
                    Stance::Held => {
                        "this side is held: it goes on once the witness or the peer answers".to_owned()
                    }
                    Stance::LettingGo => "this side is letting go what was held".to_owned(),
                }
            }
            View::Standby { waits, .. } => match waits {
                Waits::Witness => "nothing: without the witness nobody promotes".to_owned(),
                Waits::NoLease => "nothing: the active side has no lease at the witness".to_owned(),
                Waits::OtherEpoch => "nothing: the lease is of an epoch that is over".to_owned(),
                Waits::Unguarded => {
                    "nothing: what runs on the active side would outlive its daemon".to_owned()
                }
                Waits::Unable => "nothing: this side has no whole restore point to promote".to_owned(),
                Waits::Until(at) => {
                    format!("this side promotes in {} unless the peer renews", seconds(at.since(now)))
                }
                Waits::Taking => "this side is taking over".to_owned(),
            },
        }
    }
}

/// Whole seconds, rounded up.
fn seconds(span: Span) -> String {
    format!("{} s", span.0.div_ceil(1000))
}
