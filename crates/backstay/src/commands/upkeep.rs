//! `backstay verify`, `gc` and `audit`

use backstay_daemon::api_types::{GcOutcome, GcRequest, List, VerifyOutcome, VerifyRequest};
use backstay_daemon::audit::{AuditPage, AuditRecord};
use backstay_types::{Class, Time};

use crate::args::{AuditArgs, GcArgs, Since, VerifyArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::progress::{self, Watch};
use crate::render;

pub(super) async fn verify(client: &Client, args: &VerifyArgs) -> Result<(), Failure> {
    let request = VerifyRequest { plan: args.plan.clone(), repair: args.repair };
    let watch = args.plan.as_ref().map_or(Watch::Any, Watch::Plan);
    let outcome: VerifyOutcome = progress::during(client, watch, client.post("/verify", &request)).await?;
    show_verified(args.output.format, &outcome)
}

/// Prints what was found; damage that is left fails the command.
pub(super) fn show_verified(format: Format, outcome: &VerifyOutcome) -> Result<(), Failure> {
    output::show(format, outcome, |_| render::verified(outcome))?;
    if outcome.is_clean() {
        return Ok(());
    }
    let left: Vec<_> = outcome.damaged.iter().filter(|damage| !damage.repaired).collect();
    let named = left.iter().take(3).map(|damage| format!("{} {}", damage.kind, damage.name));
    let more = if left.len() > 3 { format!(" and {} more", left.len() - 3) } else { String::new() };
    Err(Failure::new(Class::Corrupt, format!("damaged: {}{more}", named.collect::<Vec<_>>().join(", ")))
        .hint("`backstay verify --repair` mends what another copy allows to; a new sync ships again what is lost"))
}

pub(super) async fn gc(client: &Client, args: &GcArgs) -> Result<(), Failure> {
    let outcome: GcOutcome = client.post("/gc", &GcRequest { dry_run: args.dry_run }).await?;
    output::show(args.output.format, &outcome, |_| render::collected(&outcome))
}

pub(super) async fn audit(client: &Client, args: &AuditArgs) -> Result<(), Failure> {
    let since = args.since.map(|since| match since {
        Since::At(time) => time,
        Since::Ago(span) => Time(jiff::Timestamp::now().as_millisecond()).minus(span),
    });
    let mut all: List<AuditRecord> = Vec::new().into();
    let mut after = None;
    loop {
        let since = since.map(|time| format!("since={time}"));
        let after_this = after.map(|after: u64| format!("after={after}"));
        let query: Vec<_> = since.into_iter().chain(after_this).collect();
        let page: AuditPage = client.get(&format!("/audit?{}", query.join("&"))).await?;
        all.items.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    output::show(args.output.format, &all, |wide| render::audit(&all.items, wide))
}

#[cfg(test)]
mod tests {
    use backstay_daemon::api_types::Damage;

    use super::*;

    #[test]
    fn only_damage_that_is_left_fails() {
        let damage = |repaired| Damage {
            kind: "pack".into(),
            name: "00000001".into(),
            detail: "digest".into(),
            restore_points: vec![],
            repaired,
        };
        let with = |damaged| VerifyOutcome { damaged, ..VerifyOutcome::default() };
        assert!(show_verified(Format::Json, &with(vec![])).is_ok());
        assert!(show_verified(Format::Json, &with(vec![damage(true)])).is_ok());
        let failure =
            show_verified(Format::Table, &with(vec![damage(true), damage(false)])).expect_err("damaged");
        assert_eq!(failure.class(), Class::Corrupt);
        assert!(failure.to_string().contains("pack 00000001"), "{failure}");
    }
}
