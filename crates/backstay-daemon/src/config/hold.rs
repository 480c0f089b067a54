//! `[hold.PLAN]`: what stops the application of a plan on this host, in the words of a plan's own `hold`.

use std::collections::BTreeMap;

use backstay_types::PlanName;
use backstay_types::plan::HostHold;

use super::draft::HOLD;
use super::{ConfigError, Origin};

const EXPECTED: &str =
    "a table of `units`, `cgroups` and `commands`, or `nothing = true`, for a plan by name";

/// Reads the table of all plans.
pub(super) fn read(table: &toml::Table) -> Result<BTreeMap<PlanName, HostHold>, ConfigError> {
    table.iter().map(|(plan, value)| read_one(plan, value)).collect()
}

fn read_one(plan: &str, value: &toml::Value) -> Result<(PlanName, HostHold), ConfigError> {
    let bad = |found: String| ConfigError::Value {
        origin: Origin::File,
        key: format!("{HOLD}.{plan}"),
        expected: EXPECTED.to_owned(),
        found,
    };
    let name = plan.parse().map_err(|_| bad(format!("the plan {plan:?}")))?;
    let hold: HostHold =
        value.clone().try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
    hold.validate().map_err(|error| bad(error.to_string()))?;
    Ok((name, hold))
}

/// The tables as TOML.
pub(super) fn print(holds: &BTreeMap<PlanName, HostHold>, out: &mut String) {
    out.push_str(
        "\n# What stops the application of a plan on this host, if the plan was made on the other side.\n",
    );
    if holds.is_empty() {
        out.push_str("# [hold.shop]\n# units = [\"postgresql.service\"]\n");
    }
    for (plan, hold) in holds {
        let tables = BTreeMap::from([(HOLD, BTreeMap::from([(plan, hold)]))]);
        out.push_str(&toml::to_string(&tables).expect("names, texts and lists are TOML"));
    }
}
