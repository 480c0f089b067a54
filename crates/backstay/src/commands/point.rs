//! `backstay restore-points`, `diff` and `restore`

use backstay_daemon::api_types::{DiffList, List, RestoreOutcome, RestorePointInfo, RestoreRequest};
use backstay_types::Class;

use crate::args::{DiffArgs, RestoreArgs, RestorePointsArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::progress::{self, Watch};
use crate::{output, render};

pub(super) async fn list(client: &Client, args: &RestorePointsArgs) -> Result<(), Failure> {
    let points: List<RestorePointInfo> = client.get(&format!("/plans/{}/restore-points", args.plan)).await?;
    output::show(args.output.format, &points, |wide| render::restore_points(&points.items, wide))
}

pub(super) async fn diff(client: &Client, args: &DiffArgs) -> Result<(), Failure> {
    let ids = [("a", args.a), ("b", args.b)];
    let query: Vec<_> = ids.iter().filter_map(|(name, id)| id.map(|id| format!("{name}={id}"))).collect();
    let diff: DiffList = client.get(&format!("/plans/{}/diff?{}", args.plan, query.join("&"))).await?;
    if diff.truncated {
        eprintln!("note: there are more differences than the {} shown", diff.items.len());
    }
    output::show(args.output.format, &diff, |_| render::diff(&diff))
}

pub(super) async fn restore(client: &Client, args: RestoreArgs) -> Result<(), Failure> {
    // The daemon has another working folder.
    let to = std::path::absolute(&args.to)
        .map_err(|error| Failure::io(Class::Invalid, "find the full path of", &args.to, &error))?;
    let RestoreArgs { plan, output, .. } = args;
    let request =
        RestoreRequest { restore_point: args.restore_point, volume: args.volume, path: args.path, to };
    let path = format!("/plans/{plan}/restore");
    let asked = client.post(&path, &request);
    let outcome: RestoreOutcome = progress::during(client, Watch::Plan(&plan), asked).await?;
    output::show(output.format, &outcome, |_| render::restored(&outcome))
}
