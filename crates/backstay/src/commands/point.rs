//! `backstay restore-points`, `diff` and `restore`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use backstay_daemon::api_types::{DiffList, List, RestoreOutcome, RestorePointInfo, RestoreRequest};
use backstay_types::Class;
use backstay_types::manifest::RelPath;

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
    let path = args.path.map(path_as_text).transpose()?;
    let request = RestoreRequest { restore_point: args.restore_point, volume: args.volume, path, to };
    let path = format!("/plans/{plan}/restore");
    let asked = client.post(&path, &request);
    let outcome: RestoreOutcome = progress::during(client, Watch::Plan(&plan), asked).await?;
    output::show(output.format, &outcome, |_| render::restored(&outcome))
}

/// JSON holds text: bytes that are none travel in the form that `diff` prints.
fn path_as_text(path: OsString) -> Result<String, Failure> {
    path.into_string().or_else(|path| {
        let bytes = path.as_bytes();
        let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let path = RelPath::parse(bytes).map_err(|error| Failure::new(Class::Invalid, error.to_string()))?;
        Ok(path.to_string())
    })
}
