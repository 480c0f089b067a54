//! `backstay pair …`

use std::io::Read as _;

use backstay_daemon::api_types::{
    Changed, Empty, JoinRequest, List, Pair, PairKey, PairKeyRequest, PairReplaceRequest, PairSetRequest,
    Replaced, Unpaired,
};
use backstay_types::Class;

use crate::args::PairCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, render};

/// A key is under 1 KiB; this much is read from standard input.
const KEY_BYTES_MAX: u64 = 16 << 10;

pub(super) async fn run(client: &Client, command: PairCommand) -> Result<(), Failure> {
    match command {
        PairCommand::Key { endpoints, ttl, replaces } => {
            // A part of a second would be none; the shortest key lives for one.
            let request = PairKeyRequest { endpoints, ttl_seconds: Some(ttl.0.div_ceil(1000)), replaces };
            let made: PairKey = client.post("/pairs/key", &request).await?;
            // Beside the key, which stands alone on standard output.
            output::note(&format!("The other site will look for this one at {}.", made.endpoints.join(", ")));
            output::print(&made.key)
        }
        PairCommand::Join { key, replaces, output } => {
            let key = if key == "-" { read_key()? } else { key };
            let request = JoinRequest { key: key.trim().to_owned(), replaces };
            let pair: Pair = client.post("/pairs/join", &request).await?;
            output::show(output.format, &pair, |_| format!("Paired with {}.", pair.name))
        }
        PairCommand::List { output } => {
            let pairs: List<Pair> = client.get("/pairs").await?;
            output::show(output.format, &pairs, |wide| render::pairs(&pairs.items, wide))
        }
        PairCommand::Rotate { peer } => {
            let _: Changed = client.post(&format!("/pairs/{}/rotate", segment(&peer)?), &Empty {}).await?;
            output::print(&format!("Certificates of the pair with {peer} replaced."))
        }
        PairCommand::Set { peer, endpoints, output } => {
            let request = PairSetRequest { endpoints };
            let pair: Pair = client.post(&format!("/pairs/{}/set", segment(&peer)?), &request).await?;
            output::show(output.format, &pair, |_| {
                format!("Peer {} is looked for at {}.", pair.name, pair.endpoints.join(", "))
            })
        }
        PairCommand::Replace { old, new, output } => {
            let request = PairReplaceRequest { by: new.clone() };
            let done: Replaced = client.post(&format!("/pairs/{}/replace", segment(&old)?), &request).await?;
            output::show(output.format, &done, |_| render::replaced(&old, &new, &done))
        }
        PairCommand::Remove { peer } => {
            let removed = client.delete(&format!("/pairs/{}", segment(&peer)?)).await;
            let removed: Option<Unpaired> = super::plan::done_or_gone(removed)?;
            output::print(&render::unpaired(&peer, &removed.unwrap_or_default()))
        }
    }
}

/// A peer's name as part of a path; anything else than a name would name another path.
fn segment(peer: &str) -> Result<&str, Failure> {
    let fits =
        !peer.is_empty() && peer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let bad = || {
        Failure::new(Class::Invalid, format!("peer name {peer:?}: expected letters, digits and '-'"))
            .hint("`backstay pair list` shows the names")
    };
    if fits { Ok(peer) } else { Err(bad()) }
}

fn read_key() -> Result<String, Failure> {
    let mut key = String::new();
    let read = std::io::stdin().lock().take(KEY_BYTES_MAX).read_to_string(&mut key);
    read.map_err(|error| Failure::new(Class::Invalid, format!("read the key from standard input: {error}")))?;
    Ok(key)
}
