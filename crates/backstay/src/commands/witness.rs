//! `backstay witness`

use std::net::SocketAddr;
use std::path::Path;

use backstay_daemon::{WitnessOptions, serve_witness};
use backstay_types::Class;

use crate::args::WitnessArgs;
use crate::failure::Failure;
use crate::{logging, output};

pub(super) fn run(args: WitnessArgs) -> Result<(), Failure> {
    logging::start_plain()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Class::Transient, format!("start the runtime: {error}")))?;
    let options = WitnessOptions { dir: args.dir, listen: args.listen, token_file: args.token_file };
    let mut told = Ok(());
    let ready = |address: SocketAddr, fingerprint, token: &Path| {
        let text = format!(
            "# In site.toml of both sites; the host as they reach it, and a copy of {}:\n[witness]\n\
             url = \"https://{address}#{fingerprint}\"\ntokenFile = \"/etc/backstay/witness-token\"",
            token.display()
        );
        told = output::print(&text);
    };
    runtime.block_on(serve_witness(options, ready))?;
    told
}
