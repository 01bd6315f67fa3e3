//! The mock as a process of its own, and the certificates that it shows.
//!
//! In: nothing. Out: its ports and the file of the authority that vouches for it, made anew in each run. Never: a
//! certificate that outlives the run.

use crate::process::{Running, helper};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

/// The mock, and the certificate authority that vouches for it.
pub struct Upstream {
    /// With TLS, as `localhost`.
    pub tls_port: u16,
    plain_port: u16,
    folder: TempDir,
    _running: Running,
}

impl Upstream {
    /// Makes certificates and starts the mock.
    pub fn start() -> Result<Self, String> {
        let folder = folder()?;
        let file = |name: &str| folder.path().join(name);
        certificates(folder.path()).map_err(|e| format!("certificates: {e}"))?;
        let mut command = helper("mock");
        command.args([file("server.pem"), file("server.key")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command)?;
        let stdout = running.child().stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("mock: {e}"))?;
        let mut ports = line.split_whitespace().map_while(|port| port.parse().ok());
        let (tls_port, plain_port) = ports.next().zip(ports.next()).ok_or(format!("mock: no ports in {line:?}"))?;
        Ok(Self { tls_port, plain_port, folder, _running: running })
    }

    /// Without TLS.
    pub fn plain_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain_port).into()
    }

    /// The files of a certificate for `localhost` and of its key, for a target that speaks TLS.
    pub fn pair(&self) -> [String; 2] {
        ["server.pem", "server.key"].map(|name| self.folder.path().join(name).display().to_string())
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

fn certificates(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "bench authority"); // OpenSSL tells issuers by their name
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["localhost".to_string()])?.signed_by(&key, &authority)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    std::fs::write(folder.join("server.pem"), server.pem())?;
    std::fs::write(folder.join("server.key"), key.serialize_pem())?;
    Ok(())
}

/// A folder that vanishes with its owner, and that nginx's worker may enter when its master runs as root.
pub fn folder() -> Result<TempDir, String> {
    let folder = tempfile::tempdir().map_err(|e| format!("temporary folder: {e}"))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).map_err(|e| format!("temporary folder: {e}"))?;
    Ok(folder)
}
