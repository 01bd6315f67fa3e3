//! The certificate that clients are shown, from `TLS_CERT_FILE` and `TLS_KEY_FILE`.
//!
//! In: two PEM files. Out: how to speak TLS with them, read again whenever that is asked for; or which file is wrong,
//! and where in it. Never: one of the two without the other, or what is in the key.

use super::authorities::without_mark;
use super::source::Source;
use crate::tls::{Acceptor, PairError};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The files, and what was in them.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    chain: PathBuf,
    key: PathBuf,
    /// What the two were like before they were read.
    pub files: FilesState,
    pub acceptor: Acceptor,
}

/// What tells that one of the two files was written or replaced: device, inode, size, and when it changed. `None` for a
/// file that is not there.
pub type FilesState = [Option<(u64, u64, u64, i64, i64)>; 2];

impl ServerCertificate {
    pub(super) fn read(source: &mut Source<'_>) -> Option<Self> {
        let (chain, key) = match (source.os("TLS_CERT_FILE"), source.os("TLS_KEY_FILE")) {
            (None, None) => return None,
            (Some(chain), Some(key)) => (PathBuf::from(chain), PathBuf::from(key)),
            (Some(_), None) => {
                source.problem("TLS_KEY_FILE", "expected the key of TLS_CERT_FILE, got none".to_owned());
                return None;
            }
            (None, Some(_)) => {
                source.problem("TLS_CERT_FILE", "expected the certificate of TLS_KEY_FILE, got none".to_owned());
                return None;
            }
        };
        let files = state(&chain, &key);
        match load(&chain, &key, Acceptor::new) {
            Ok(acceptor) => Some(Self { chain, key, files, acceptor }),
            Err((variable, why)) => {
                source.problem(variable, format!("expected a readable PEM file, but {why}"));
                None
            }
        }
    }

    /// What the files are like now.
    pub fn state(&self) -> FilesState {
        state(&self.chain, &self.key)
    }

    /// True where both name the same files.
    pub fn is_of_same_files(&self, other: &Self) -> bool {
        (&self.chain, &self.key) == (&other.chain, &other.key)
    }

    /// Reads both anew; where one cannot be used, nothing is changed.
    ///
    /// # Errors
    /// One sentence.
    pub fn read_again(&mut self) -> Result<(), String> {
        let files = self.state();
        let renewed = load(&self.chain, &self.key, |chain, key| self.acceptor.renewed(chain, key));
        self.files = files;
        self.acceptor = renewed.map_err(|(variable, why)| format!("{variable}: {why}"))?;
        Ok(())
    }
}

/// What the pair becomes, or the variable of the file that is wrong, and why.
fn load(
    chain: &Path,
    key: &Path,
    accept: impl FnOnce(&[u8], &[u8]) -> Result<Acceptor, PairError>,
) -> Result<Acceptor, (&'static str, String)> {
    let read = |path: &Path, variable| {
        let pem = fs::read(path).map_err(|error| (variable, format!("{}: {error}", path.display())));
        pem.map(without_mark)
    };
    let (chain_pem, key_pem) = (read(chain, "TLS_CERT_FILE")?, read(key, "TLS_KEY_FILE")?);
    accept(&chain_pem, &key_pem).map_err(|error| match &error {
        PairError::Chain(_) => ("TLS_CERT_FILE", format!("{}: {error}", chain.display())),
        PairError::Key(_) => ("TLS_KEY_FILE", format!("{}: {error}", key.display())),
    })
}

fn state(chain: &Path, key: &Path) -> FilesState {
    [chain, key].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    })
}
