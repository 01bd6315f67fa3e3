//! A PostgreSQL server as a URL names it (PostgreSQL's manual, "Connection URIs"), in that part of libpq's syntax which
//! is safe over a network.
//!
//! In: the URL, and the file that `PGPASSFILE` names. Out: hosts to try, in order, with the password for each. Never: a
//! part of the URL in a problem, for a password may stand anywhere; an unencrypted way to another machine.

use super::secret::Secret;
use super::value;
use crate::base::percent::decode;
use crate::tls::{Connector, TlsError};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Where PostgreSQL listens.
const PORT: u16 = 5432;
/// Others than a file's owner may do nothing with it, or it is not read (as libpq has it).
const OTHERS: u32 = 0o077;

/// How a database is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// Tried in this order; at least one.
    pub hosts: Vec<PostgresHost>,
    pub user: String,
    pub database: String,
    /// `sslmode=verify-full`; else all hosts are this machine.
    pub tls: bool,
    /// `sslrootcert`: the only authorities that are trusted, PEM; `None` is Mozilla's.
    pub authorities: Option<Vec<u8>>,
    /// `target_session_attrs=read-write`: a server that only reads is passed over.
    pub writes: bool,
}

/// One server of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresHost {
    /// A DNS name in lower case or an IP address, without brackets.
    pub name: String,
    pub port: u16,
    pub password: Option<Secret>,
}

/// What a URL must look like.
const EXPECTED: &str = "expected postgres://user[:password]@host[:port][,host[:port]…]/database with user and password \
                        percent-encoded, and after ? any of sslmode, sslrootcert, target_session_attrs and passfile";

impl PostgresUrl {
    /// `passfile` is the file that `PGPASSFILE` names; the URL's own goes before it.
    ///
    /// # Errors
    /// What is wrong, without any part of the URL but the names of its parameters and files.
    pub fn parse(url: &str, passfile: Option<&Path>) -> Result<Self, String> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or(EXPECTED)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (userinfo, place) = rest.rsplit_once('@').ok_or(EXPECTED)?;
        let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(user, word)| (user, Some(word)));
        let user = decode(user).filter(|user| is_text(user)).ok_or(EXPECTED)?;
        let database = if database.is_empty() { user.clone() } else { decode(database).ok_or(EXPECTED)? };
        let password = password.map(|word| decode(word).filter(|word| is_text(word)).ok_or(EXPECTED)).transpose()?;
        let hosts = hosts.split(',').map(|host| PostgresHost::parse(host).ok_or(EXPECTED.to_owned()));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        let mut parsed = Self { hosts, user, database, tls: true, authorities: None, writes: true };
        if !is_text(&parsed.database) {
            return Err(EXPECTED.to_owned());
        }
        let mut passfile = passfile.map(Path::to_owned);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(EXPECTED)?;
            let value = decode(value).ok_or(EXPECTED)?;
            match name {
                "passfile" => passfile = Some(value.into()),
                _ => parsed.set(name, &value)?,
            }
        }
        if !parsed.tls && !parsed.hosts.iter().all(PostgresHost::is_near) {
            return Err("sslmode=disable sends the password and all usage unencrypted: it is for localhost only".into());
        }
        match (password, passfile) {
            (Some(word), _) => parsed.hosts.iter_mut().for_each(|host| host.password = Some(Secret::text(&word))),
            (None, Some(path)) => parsed.look_up(&path)?,
            (None, None) => {}
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("sslmode", "verify-full") => self.tls = true,
            ("sslmode", "disable") => self.tls = false,
            ("sslmode", _) => {
                return Err("sslmode is verify-full (as it is without it), or disable for localhost: less than \
                            verify-full lets others read and write on the way"
                    .into());
            }
            ("sslrootcert", "system") => self.authorities = None,
            ("sslrootcert", path) => self.authorities = Some(authorities(Path::new(path))?),
            ("target_session_attrs", "read-write" | "primary") => self.writes = true,
            ("target_session_attrs", "any") => self.writes = false,
            ("target_session_attrs", _) => {
                return Err("target_session_attrs is read-write (as without it) or any".into());
            }
            _ if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                return Err(format!("the parameter {name} is not known; {EXPECTED}"));
            }
            _ => return Err(EXPECTED.to_owned()),
        }
        Ok(())
    }

    /// Takes the passwords from a file as libpq's: `host:port:database:user:password` a line, `*` for any.
    fn look_up(&mut self, path: &Path) -> Result<(), String> {
        let cannot = |why: &dyn std::fmt::Display| format!("the password file {}: {why}", path.display());
        let mode = fs::metadata(path).map_err(|error| cannot(&error))?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(cannot(&"others may read it: chmod 600"));
        }
        let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).filter_map(fields).collect();
        for host in &mut self.hosts {
            let own = [host.name.clone(), host.port.to_string(), self.database.clone(), self.user.clone()];
            let is_of = |line: &&[String; 5]| own.iter().zip(*line).all(|(own, asked)| asked == "*" || own == asked);
            host.password = lines.iter().find(is_of).map(|[.., word]| Secret::text(word));
        }
        Ok(())
    }

    /// Hosts, ports and database, to be shown.
    pub fn shown(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(PostgresHost::shown).collect();
        format!("postgres://{}/{}", hosts.join(","), self.database)
    }
}

impl PostgresHost {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, value::number(port).filter(|port| *port > 0)?),
            _ => (text, PORT),
        };
        let name = host.trim_matches(['[', ']']).to_ascii_lowercase();
        value::is_host(host).then_some(Self { name, port, password: None })
    }

    fn is_near(&self) -> bool {
        self.name == "localhost" || self.name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// As in a URL.
    pub fn shown(&self) -> String {
        let Self { name, port, .. } = self;
        if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
    }
}

/// What the protocol can carry: it ends strings by a zero.
fn is_text(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// The five fields of a line, in which `\` goes before a `:` or a `\` that belongs to one.
fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => fields.push(String::new()),
            '\\' => fields.last_mut()?.push(letters.next()?),
            letter => fields.last_mut()?.push(letter),
        }
    }
    fields.try_into().ok()
}

fn authorities(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("sslrootcert {}: {why}", path.display());
    let pem = fs::read(path).map_err(|error| cannot(&error))?;
    match Connector::to_database("localhost", Some(&pem)) {
        Err(TlsError::Anchors(why)) => Err(cannot(&why)),
        _ => Ok(pem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<PostgresUrl, String> {
        PostgresUrl::parse(url, None)
    }

    #[test]
    fn urls_as_libpq_reads_them() {
        let url = parse("postgresql://oap:p%40ss%2F@db1,DB2.example.com:6432,[::1]:1/fleet?target_session_attrs=any");
        let url = url.unwrap();
        let hosts: Vec<_> = url.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
        assert_eq!(hosts, [("db1", 5432), ("db2.example.com", 6432), ("::1", 1)]);
        assert!(url.hosts.iter().all(|host| host.password.as_ref().unwrap().expose() == "p@ss/"));
        assert_eq!((url.user.as_str(), url.database.as_str(), url.tls, url.writes), ("oap", "fleet", true, false));
        assert_eq!(url.shown(), "postgres://db1:5432,db2.example.com:6432,[::1]:1/fleet");
        assert_eq!(parse("postgres://me@localhost").unwrap().database, "me");
        assert!(!format!("{url:?}").contains("p@ss"));
    }

    #[test]
    fn what_is_not_safe_or_not_known_is_refused_without_the_password() {
        for (url, why) in [
            ("http://u:word@h/d", "expected postgres://"),
            ("postgres://u:word@h:0/d", "expected postgres://"),
            ("postgres://u:wo%zzrd@h/d", "expected postgres://"),
            ("postgres://u:word@/d", "expected postgres://"),
            ("postgres://h/d", "expected postgres://"),
            ("postgres://u:word%00@h/d", "expected postgres://"),
            ("postgres://u:word@h/d?sslmode=require", "sslmode is verify-full"),
            ("postgres://u:word@localhost,h/d?sslmode=disable", "for localhost only"),
            ("postgres://u:word@h/d?sslrootcert=/nowhere.pem", "sslrootcert /nowhere.pem"),
            ("postgres://u:word@h/d?options=-c", "the parameter options is not known"),
            ("postgres://u:word@h/d?target_session_attrs=standby", "target_session_attrs is"),
            ("postgres://u@h/d?passfile=/nowhere", "the password file /nowhere"),
        ] {
            let problem = parse(url).unwrap_err();
            assert!(problem.contains(why) && !problem.contains("word@") && !problem.contains("u:word"), "{problem}");
        }
        assert!(parse("postgres://u:word@127.0.0.1,localhost/d?sslmode=disable").is_ok_and(|url| !url.tls));
    }

    #[test]
    fn a_password_file_is_searched_for_each_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        fs::write(&path, "# a comment\nbroken\nh1:5432:d:u:one\\:\\\\\n*:*:d:u:two\n*:*:*:other:three\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let read = || PostgresUrl::parse("postgres://u@h1,h2:1/d", Some(&path));
        assert!(read().unwrap_err().ends_with("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let words: Vec<_> =
            read().unwrap().hosts.iter().map(|h| h.password.as_ref().unwrap().expose().to_owned()).collect();
        assert_eq!(words, ["one:\\", "two"]);
        let own = PostgresUrl::parse(&format!("postgres://other@h1/x?passfile={}", path.display()), None).unwrap();
        assert_eq!(own.hosts[0].password.as_ref().unwrap().expose(), "three");
    }
}
