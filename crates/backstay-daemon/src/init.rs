//! Making a site: identity, configuration, empty folders.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use backstay_net::Identity;
use backstay_types::{PlanName, SiteId};
use serde::{Deserialize, Serialize};

use crate::config::{Overrides, SiteConfig};
use crate::site::layout;
use crate::{DaemonError, files, private};

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
    /// Whether it was there already.
    pub result: InitResult,
}

/// Whether a site was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum InitResult {
    /// It was made.
    Created,
    /// It was there already.
    Unchanged,
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
    // A folder that was there may be open to others.
    private::set_umask();
    private::tighten(dir)?;
    let site_id = SiteId(rand::random());
    Identity::create(&dir.join(layout::IDENTITY), site_id, name.as_str())?;
    files::write_json(&dir.join(layout::SITE), &SiteFile { site_id })?;
    let config = SiteConfig::default_for(name.as_str(), listen);
    files::write(&dir.join(layout::CONFIG), config.to_toml().as_bytes())?;
    Ok(InitReport {
        dir: dir.to_owned(),
        name: name.to_string(),
        site_id,
        listen,
        result: InitResult::Created,
    })
}

/// As [`init`], unless `dir` is a site of that name already: then nothing is done. For a start script that runs
/// every time; a site of another name is refused, since its peers know it by that.
pub fn init_if_missing(dir: &Path, name: &str, listen: SocketAddr) -> Result<InitReport, DaemonError> {
    if !dir.join(layout::CONFIG).exists() {
        return init(dir, name, listen);
    }
    let identity = Identity::load(&dir.join(layout::IDENTITY))?;
    if identity.name() != name {
        let found = identity.name().to_owned();
        return Err(DaemonError::OtherSite { dir: dir.to_owned(), expected: name.to_owned(), found });
    }
    let config = SiteConfig::load(dir, &Overrides::default())?;
    Ok(InitReport {
        dir: dir.to_owned(),
        name: name.to_owned(),
        site_id: identity.site(),
        listen: config.listen,
        result: InitResult::Unchanged,
    })
}
