//! Who this site is: its id, its name, its certificate authorities.
//!
//! ```text
//! site.json             site id, name, the authority for new pairs, the secret behind stateless resets
//! ca-<fingerprint>.pem  one authority: certificate and private key
//! ```
//! 1. All files are 0600 and replaced whole (`files`). An authority's file is durable before `site.json` or a pair's
//!    record names it, so a crash leaves at most an authority that nothing names.
//! 2. There is one authority until `pair rotate` makes another; one is removed when no pair needs it.
//!
//! Which authority is shown to which peer is decided elsewhere: by the pair's record, and by the server name.

mod authority;
mod fingerprint;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use backstay_types::{Class, Classify, InvalidName, PlanName, SiteId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files;
pub(crate) use authority::Authority;
use authority::AuthorityError;
pub use fingerprint::{CaCert, Fingerprint, InvalidCa};

const VERSION: u8 = 1;
const SITE_FILE: &str = "site.json";

/// Why an identity cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is one already.
    #[error("make an identity in {}: there is one already", dir.display())]
    Exists {
        /// Where.
        dir: PathBuf,
    },
    /// There is none.
    #[error("read the identity in {}: there is none", dir.display())]
    Missing {
        /// Where.
        dir: PathBuf,
    },
    /// The site's name cannot be used.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A file cannot be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("read {}: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("issue a certificate: {why}")]
    Issue {
        /// Why not.
        why: String,
    },
    /// An authority that a pair's record names is not there.
    #[error("present certificate authority {fingerprint}: this site does not have it")]
    NoAuthority {
        /// The one that is missing.
        fingerprint: Fingerprint,
    },
}

impl Classify for IdentityError {
    fn class(&self) -> Class {
        match self {
            IdentityError::Exists { .. } | IdentityError::Name(_) => Class::Invalid,
            IdentityError::Missing { .. } => Class::NotFound,
            IdentityError::Io { .. } => Class::Transient,
            IdentityError::Damaged { .. } | IdentityError::NoAuthority { .. } => Class::Corrupt,
            IdentityError::Issue { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IdentityError::Exists { .. } => {
                Some("choose an empty folder, or keep the site that is there".to_owned())
            }
            IdentityError::Missing { .. } => {
                Some("make a site first: backstay init --site DIR --name NAME".to_owned())
            }
            IdentityError::Damaged { .. } | IdentityError::NoAuthority { .. } => {
                Some("put the file back from a copy, or make a new site and pair it again".to_owned())
            }
            _ => None,
        }
    }
}

impl From<AuthorityError> for IdentityError {
    fn from(error: AuthorityError) -> Self {
        IdentityError::Issue { why: error.to_string() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SiteFile {
    version: u8,
    site: SiteId,
    name: String,
    current: Fingerprint,
    /// Base64 of 32 random bytes.
    reset_secret: String,
}

/// The identity of this site. Clones share one.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    site: SiteId,
    name: String,
    reset_secret: Zeroizing<[u8; 32]>,
    authorities: ArcSwap<Authorities>,
    /// Held while files change.
    writing: Mutex<()>,
}

#[derive(Clone)]
struct Authorities {
    current: Arc<Authority>,
    all: BTreeMap<Fingerprint, Arc<Authority>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("site", &self.0.site)
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes the identity of a new site in `dir`. The name must be a DNS label.
    pub fn create(dir: &Path, site: SiteId, name: &str) -> Result<Self, IdentityError> {
        name.parse::<PlanName>()?;
        if dir.join(SITE_FILE).exists() {
            return Err(IdentityError::Exists { dir: dir.to_owned() });
        }
        files::create_dir(dir).map_err(io_error("create", dir))?;
        let authority = write_authority(dir, name)?;
        let inner = Inner {
            dir: dir.to_owned(),
            site,
            name: name.to_owned(),
            reset_secret: Zeroizing::new(rand::random()),
            authorities: ArcSwap::from_pointee(Authorities::with(authority)),
            writing: Mutex::new(()),
        };
        inner.write_site(&inner.authorities.load())?;
        Ok(Self(Arc::new(inner)))
    }

    /// Reads the identity in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(SITE_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing { dir: dir.to_owned() });
            }
            text => Zeroizing::new(text.map_err(io_error("read", &path))?),
        };
        let damaged = |why: String| IdentityError::Damaged { path: path.clone(), why };
        let file: SiteFile = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!("version {}: expected {VERSION}", file.version)));
        }
        let reset_secret = crate::base64::decode(&file.reset_secret).and_then(|bytes| bytes.try_into().ok());
        let reset_secret =
            reset_secret.ok_or_else(|| damaged("the reset secret is not 32 bytes".to_owned()))?;
        let all = read_authorities(dir)?;
        let current = all.get(&file.current).cloned();
        let current = current.ok_or(IdentityError::NoAuthority { fingerprint: file.current })?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            site: file.site,
            name: file.name,
            reset_secret: Zeroizing::new(reset_secret),
            authorities: ArcSwap::from_pointee(Authorities { current, all }),
            writing: Mutex::new(()),
        })))
    }

    /// The site's id.
    pub fn site(&self) -> SiteId {
        self.0.site
    }

    /// The site's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The authority that new pairs get.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.authorities.load().current.fingerprint()
    }

    /// Secret of this site, kept across restarts, from which what a restarted endpoint must know again is derived.
    pub(crate) fn reset_secret(&self) -> &[u8; 32] {
        &self.0.reset_secret
    }

    pub(crate) fn current(&self) -> Arc<Authority> {
        Arc::clone(&self.0.authorities.load().current)
    }

    pub(crate) fn authority(&self, fingerprint: &Fingerprint) -> Result<Arc<Authority>, IdentityError> {
        let authority = self.0.authorities.load().all.get(fingerprint).cloned();
        authority.ok_or(IdentityError::NoAuthority { fingerprint: *fingerprint })
    }

    /// The authority that a TLS server name asks for.
    pub(crate) fn by_server_name(&self, name: &str) -> Option<Arc<Authority>> {
        let authorities = self.0.authorities.load();
        authorities.all.values().find(|authority| authority.fingerprint().server_name() == name).cloned()
    }

    /// Makes a new authority and has new pairs use it. Blocks on the disk.
    pub(crate) fn renew(&self) -> Result<Arc<Authority>, IdentityError> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = write_authority(&self.0.dir, &self.0.name)?;
        let mut next = Authorities::clone(&self.0.authorities.load());
        next.all.insert(authority.fingerprint(), Arc::clone(&authority));
        next.current = Arc::clone(&authority);
        self.0.write_site(&next)?;
        self.0.authorities.store(Arc::new(next));
        Ok(authority)
    }

    /// Removes the authorities that are not current and that `needed` does not name. Blocks on the disk.
    pub(crate) fn retire(&self, needed: impl Fn(&Fingerprint) -> bool) -> Result<(), IdentityError> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Authorities::clone(&self.0.authorities.load());
        let current = next.current.fingerprint();
        let (keep, gone) = next.all.into_iter().partition(|(print, _)| *print == current || needed(print));
        next.all = keep;
        self.0.authorities.store(Arc::new(next));
        let gone: BTreeMap<Fingerprint, Arc<Authority>> = gone;
        for fingerprint in gone.keys() {
            let path = authority_path(&self.0.dir, fingerprint);
            files::remove(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }
}

impl Authorities {
    fn with(authority: Arc<Authority>) -> Self {
        Self { all: BTreeMap::from([(authority.fingerprint(), Arc::clone(&authority))]), current: authority }
    }
}

impl Inner {
    fn write_site(&self, authorities: &Authorities) -> Result<(), IdentityError> {
        let path = self.dir.join(SITE_FILE);
        let file = SiteFile {
            version: VERSION,
            site: self.site,
            name: self.name.clone(),
            current: authorities.current.fingerprint(),
            reset_secret: crate::base64::encode(&*self.reset_secret),
        };
        let damaged =
            |error: serde_json::Error| IdentityError::Damaged { path: path.clone(), why: error.to_string() };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(damaged)?);
        files::replace(&path, &text).map_err(io_error("write", &path))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}

fn authority_path(dir: &Path, fingerprint: &Fingerprint) -> PathBuf {
    dir.join(format!("ca-{fingerprint}.pem"))
}

fn write_authority(dir: &Path, name: &str) -> Result<Arc<Authority>, IdentityError> {
    let (authority, text) = Authority::generate(name)?;
    let path = authority_path(dir, &authority.fingerprint());
    files::replace(&path, text.as_bytes()).map_err(io_error("write", &path))?;
    Ok(Arc::new(authority))
}

fn read_authorities(dir: &Path) -> Result<BTreeMap<Fingerprint, Arc<Authority>>, IdentityError> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let text = Zeroizing::new(fs::read_to_string(&path).map_err(io_error("read", &path))?);
            let damaged =
                |error: AuthorityError| IdentityError::Damaged { path: path.clone(), why: error.to_string() };
            let authority = Authority::parse(&text).map_err(damaged)?;
            all.insert(authority.fingerprint(), Arc::new(authority));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        assert!(matches!(Identity::load(&dir), Err(IdentityError::Missing { .. })));
        let made = Identity::create(&dir, SiteId([7; 16]), "east").unwrap();
        assert!(matches!(Identity::create(&dir, SiteId([8; 16]), "east"), Err(IdentityError::Exists { .. })));
        let read = Identity::load(&dir).unwrap();
        assert_eq!((read.site(), read.name()), (SiteId([7; 16]), "east"));
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.reset_secret(), made.reset_secret());
        for entry in fs::read_dir(&dir).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(matches!(
            Identity::create(&dir.join("x"), SiteId([7; 16]), "East 1"),
            Err(IdentityError::Name(_))
        ));
    }

    #[test]
    fn a_renewed_authority_stands_beside_the_old_one_until_that_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::create(dir.path(), SiteId([7; 16]), "east").unwrap();
        let old = identity.fingerprint();
        let new = identity.renew().unwrap().fingerprint();
        assert_ne!(old, new);
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!(read.fingerprint(), new);
        assert!(read.by_server_name(&old.server_name()).is_some());
        identity.retire(|print| *print == old).unwrap();
        assert!(identity.authority(&old).is_ok());
        identity.retire(|_| false).unwrap();
        assert!(matches!(identity.authority(&old), Err(IdentityError::NoAuthority { .. })));
        let read = Identity::load(dir.path()).unwrap();
        assert!(read.by_server_name(&old.server_name()).is_none());
        assert!(read.authority(&new).is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::create(dir.path(), SiteId([7; 16]), "east").unwrap();
        let printed = format!("{identity:?} {:?}", identity.current());
        assert!(!printed.contains(&crate::base64::encode(identity.reset_secret())));
        assert!(!printed.contains("PRIVATE"));
    }
}
