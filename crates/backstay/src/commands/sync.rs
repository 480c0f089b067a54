//! `backstay sync`

use backstay_daemon::api_types::{SyncOutcome, SyncRequest};

use crate::args::SyncArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::progress::{self, Watch};
use crate::{output, render};

pub(super) async fn run(client: &Client, args: &SyncArgs) -> Result<(), Failure> {
    let path = format!("/plans/{}/sync", args.plan);
    let request = SyncRequest { wait: !args.no_wait };
    let asked = client.post(&path, &request);
    let outcome: SyncOutcome = if args.no_wait {
        asked.await?
    } else {
        progress::during(client, Watch::Plan(&args.plan), asked).await?
    };
    output::show(args.output.format, &outcome, |_| match &outcome {
        SyncOutcome::Done(point) => render::synced(point),
        SyncOutcome::Started { .. } => {
            format!("The cycle has begun. Next: backstay status {} --watch", args.plan)
        }
    })
}
