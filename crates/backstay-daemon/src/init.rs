//! Making a site: identity, configuration, empty folders.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use backstay_net::Identity;
use backstay_types::{PlanName, SiteId};
use serde::{Deserialize, Serialize};

use crate::config::SiteConfig;
use crate::site::layout;
use crate::{DaemonError, files};

/// What `init` made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitReport {
    /// The state folder.
    pub dir: PathBuf,
    /// The site's name.
    pub name: String,
    /// The site.
    pub site_id: SiteId,
    /// Where it will listen.
    pub listen: SocketAddr,
}

/// What a site is, for as long as it exists.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SiteFile {
    pub(crate) site_id: SiteId,
}

/// Makes a site in `dir`, which must be empty or not exist.
///
/// `site.toml` comes last: a folder without it is not a site, so an `init` that was cut off can be repeated
/// after removing the folder, and never leaves half a site that runs.
pub fn init(dir: &Path, name: &str, listen: SocketAddr) -> Result<InitReport, DaemonError> {
    // A site name stands in certificates, plans and paths like a plan's.
    let name: PlanName = name.parse()?;
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(DaemonError::NotEmpty { dir: dir.to_owned() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(DaemonError::NewSite { dir: dir.to_owned(), source }),
    }
    files::make_folder(dir).map_err(|error| match error {
        DaemonError::Io { source, .. } => DaemonError::NewSite { dir: dir.to_owned(), source },
        other => other,
    })?;
    let site_id = SiteId(rand::random());
    Identity::create(&dir.join(layout::IDENTITY), site_id, name.as_str())?;
    files::write_json(&dir.join(layout::SITE), &SiteFile { site_id })?;
    let config = SiteConfig::default_for(name.as_str(), listen);
    files::write(&dir.join(layout::CONFIG), config.to_toml().as_bytes())?;
    Ok(InitReport { dir: dir.to_owned(), name: name.to_string(), site_id, listen })
}
