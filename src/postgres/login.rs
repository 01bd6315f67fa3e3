//! Which of the hosts it is, and who we are to it.
//!
//! In: a URL. Out: a connection on which statements can be sent, to a server that writes. Never: a password to whoever
//! could not prove that it is the server, but on this machine.

use super::sql_error::{SqlError, SqlFault};
use super::transport::Transport;
use crate::config::{PostgresHost, PostgresUrl};
use crate::tls::Connector;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use std::net::ToSocketAddrs as _;
use std::time::Instant;

/// What pg_stat_activity shows.
const APPLICATION: &str = "openai-api-proxy";

/// A connection to this host, logged in.
///
/// # Errors
/// Why not, after the host's name.
pub fn log_in(url: &PostgresUrl, host: &PostgresHost, until: Instant) -> Result<Transport, SqlError> {
    try_log_in(url, host, until).map_err(|error| error.at(&host.shown()))
}

fn try_log_in(url: &PostgresUrl, host: &PostgresHost, until: Instant) -> Result<Transport, SqlError> {
    let addresses = (host.name.as_str(), host.port).to_socket_addrs().map_err(SqlError::away)?;
    let mut connected = Err(SqlError::away("it has no address"));
    for address in addresses {
        connected = Transport::connect(address, until);
        if connected.is_ok() {
            break;
        }
    }
    let mut transport = connected?;
    if url.tls {
        let connector = Connector::to_database(&host.name, url.authorities.as_deref());
        transport
            .start_tls(&connector.map_err(|error| SqlError::new(SqlFault::Misconfigured, error.of_database()))?)?;
    }
    // Nothing that a pooler would not let through, or would have to keep.
    let parameters = [
        ("user", &*url.user),
        ("database", &url.database),
        ("application_name", APPLICATION),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, &mut transport.outgoing).map_err(SqlError::away)?;
    transport.flush()?;
    authenticate(&mut transport, url, host)?;
    loop {
        match transport.receive()? {
            Message::ReadyForQuery(_) => return Ok(transport),
            Message::ErrorResponse(body) => return Err(server_error(&body)),
            _ => {}
        }
    }
}

fn authenticate(transport: &mut Transport, url: &PostgresUrl, host: &PostgresHost) -> Result<(), SqlError> {
    let misconfigured = |why: &str| SqlError::new(SqlFault::Misconfigured, why);
    let password = || {
        let given = host.password.as_ref().map(|word| word.expose().as_bytes());
        given.ok_or_else(|| misconfigured("it asks for a password, and there is none in the URL nor in PGPASSFILE"))
    };
    let mut scram = None;
    loop {
        match transport.receive()? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword if transport.is_encrypted() => {
                frontend::password_message(password()?, &mut transport.outgoing).map_err(SqlError::away)?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(url.user.as_bytes(), password()?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut transport.outgoing).map_err(SqlError::away)?;
            }
            Message::AuthenticationSasl(body) => {
                if !body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256)).map_err(SqlError::away)? {
                    return Err(misconfigured("it asks for a way to log in other than SCRAM-SHA-256"));
                }
                let first = ScramSha256::new(password()?, ChannelBinding::unsupported());
                let sent = frontend::sasl_initial_response(SCRAM_SHA_256, first.message(), &mut transport.outgoing);
                sent.map_err(SqlError::away)?;
                scram = Some(first);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = scram.as_mut().ok_or_else(|| SqlError::away("SCRAM goes on before it began"))?;
                scram.update(body.data()).map_err(|error| misconfigured(&format!("SCRAM: {error}")))?;
                frontend::sasl_response(scram.message(), &mut transport.outgoing).map_err(SqlError::away)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let scram = scram.as_mut().ok_or_else(|| SqlError::away("SCRAM ends before it began"))?;
                let why = "it does not know the password that it asks for: it is not the server that it seems to be";
                scram.finish(body.data()).map_err(|_| misconfigured(why))?;
            }
            Message::ErrorResponse(body) => return Err(server_error(&body)),
            Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
            _ => return Err(misconfigured("it asks for a way to log in that is not known: scram-sha-256 is the best")),
        }
        transport.flush()?;
    }
}

/// What the server says, without the parts of it that name data.
pub(super) fn server_error(body: &ErrorResponseBody) -> SqlError {
    let (mut state, mut message, mut hint) = (String::new(), String::new(), None);
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => state = text,
            b'M' => message = text,
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    SqlError::of_server(&state, &message, hint.as_deref())
}
