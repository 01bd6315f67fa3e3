//! Statements, transactions and COPY on one connection.

use super::login::{log_in, server_error};
use super::sql_error::{SqlError, SqlFault};
use super::text_format::{Parameter, Row};
use super::transport::Transport;
use crate::config::PostgresUrl;
use bytes::{BufMut as _, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use std::time::{Duration, Instant};

/// PostgreSQL 12, in the numbers of `server_version_num`.
const VERSION_MIN: i32 = 120_000;
/// Bytes of COPY that are sent at once.
const COPY_BYTES: usize = 64 * 1024;

/// A connection. After an error that is [`SqlFault::Away`] it is of no use, and every call says so.
pub struct PostgresClient {
    transport: Transport,
    /// How long one call may take.
    limit: Duration,
    /// Why it cannot be used any more.
    broken: Option<SqlError>,
}

impl PostgresClient {
    /// Connects to the first of the hosts that is there and, where the URL asks for it, writes. `limit` is how long
    /// each host may take, to look its name up not counted, and how long each call then may take.
    ///
    /// # Errors
    /// Why none of them serves, each after its name.
    pub fn connect(url: &PostgresUrl, limit: Duration) -> Result<Self, SqlError> {
        let mut failures: Vec<SqlError> = Vec::new();
        for host in &url.hosts {
            let connected = log_in(url, host, Instant::now() + limit)
                .map(|transport| Self { transport, limit, broken: None })
                .and_then(|mut client| {
                    client.check(url.writes).map(|()| client).map_err(|error| error.at(&host.shown()))
                });
            match connected {
                Ok(client) => return Ok(client),
                Err(error) => failures.push(error),
            }
        }
        let all = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        // What somebody has to act on is worth more than what may pass.
        let fault = failures.iter().map(|error| error.fault).max_by_key(|fault| *fault != SqlFault::Away);
        Err(SqlError::new(fault.unwrap_or(SqlFault::Away), all))
    }

    /// How long each call from now on may take.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    fn check(&mut self, writes: bool) -> Result<(), SqlError> {
        let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
            pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
        let row = self.query_one(sql, &[])?;
        if row.get::<i32>(0)? < VERSION_MIN {
            let why = format!("it is PostgreSQL {}, and 12 is the oldest that will do", row.get::<String>(1)?);
            return Err(SqlError::new(SqlFault::Misconfigured, why));
        }
        if writes && row.get(2)? {
            let why = "it only reads (a replica?): name the primary in the URL, or all hosts";
            return Err(SqlError::new(SqlFault::ReadOnly, why));
        }
        Ok(())
    }

    /// One statement with its parameters, in one round trip; its rows. A transaction of its own, where none is open.
    ///
    /// # Errors
    /// The server's, or the connection is gone.
    pub fn query(&mut self, sql: &str, parameters: &[&dyn Parameter]) -> Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        self.call(|transport| {
            let out = &mut transport.outgoing;
            frontend::parse("", sql, [], out).map_err(SqlError::away)?;
            let write = |parameter: &&dyn Parameter, out: &mut BytesMut| {
                let mut text = String::new();
                let there = parameter.write(&mut text);
                out.put_slice(text.as_bytes());
                Ok(if there { IsNull::No } else { IsNull::Yes })
            };
            let bound = frontend::bind("", "", [], parameters, write, [], out);
            bound.map_err(|_| SqlError::new(SqlFault::Statement, "the parameters are too long"))?;
            frontend::describe(b'P', "", out).map_err(SqlError::away)?;
            frontend::execute("", 0, out).map_err(SqlError::away)?;
            frontend::sync(out);
            transport.flush()?;
            until_ready(transport, |message| {
                if let Message::DataRow(body) = message {
                    rows.push(row(&body)?);
                }
                Ok(())
            })
        })?;
        Ok(rows)
    }

    /// The same where one row is sure to come.
    ///
    /// # Errors
    /// As for [`PostgresClient::query`]; or there is none.
    pub fn query_one(&mut self, sql: &str, parameters: &[&dyn Parameter]) -> Result<Row, SqlError> {
        let none = || SqlError::new(SqlFault::Statement, "an answer has no row");
        self.query(sql, parameters)?.into_iter().next().ok_or_else(none)
    }

    /// Statements without parameters, parted by semicolons, all or none.
    ///
    /// # Errors
    /// As for [`PostgresClient::query`].
    pub fn batch(&mut self, sql: &str) -> Result<(), SqlError> {
        self.call(|transport| {
            frontend::query(sql, &mut transport.outgoing).map_err(SqlError::away)?;
            transport.flush()?;
            until_ready(transport, |_| Ok(()))
        })
    }

    /// Statements of which the last is `COPY … FROM STDIN`, and the rows for it in text format (see
    /// [`super::copy_field`]).
    ///
    /// # Errors
    /// As for [`PostgresClient::query`].
    pub fn copy_in(&mut self, sql: &str, rows: &[u8]) -> Result<(), SqlError> {
        self.call(|transport| {
            frontend::query(sql, &mut transport.outgoing).map_err(SqlError::away)?;
            transport.flush()?;
            loop {
                match transport.receive()? {
                    Message::CopyInResponse(_) => break,
                    Message::ErrorResponse(body) => {
                        let error = server_error(&body);
                        return until_ready(transport, |_| Ok(())).and(Err(error));
                    }
                    Message::ReadyForQuery(_) => return Err(SqlError::away("it wants no rows to copy")),
                    _ => {}
                }
            }
            for part in rows.chunks(COPY_BYTES) {
                let message = frontend::CopyData::new(Bytes::copy_from_slice(part)).map_err(SqlError::away)?;
                message.write(&mut transport.outgoing);
                transport.flush()?;
            }
            frontend::copy_done(&mut transport.outgoing);
            transport.flush()?;
            until_ready(transport, |_| Ok(()))
        })
    }

    /// What `work` does as one transaction: all of it, or nothing where it fails.
    ///
    /// # Errors
    /// As for [`PostgresClient::query`]. Whether a commit whose answer did not come was made is not known.
    pub fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.within("BEGIN", work)
    }

    fn within<T>(&mut self, begin: &str, work: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.batch(begin)?;
        match work(self) {
            Ok(done) => self.batch("COMMIT").map(|()| done),
            Err(error) => {
                // Where this fails too, the connection is gone, and the server rolls back by itself.
                let _ = self.batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// What `work` reads, all of it as it is at one instant, and each statement within this time.
    ///
    /// # Errors
    /// As for [`PostgresClient::query`]; [`SqlFault::Cancelled`] where a statement takes longer.
    pub fn snapshot<T>(
        &mut self,
        time_limit: Duration,
        work: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let limit_ms = time_limit.as_millis();
        let begin =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {limit_ms}");
        self.within(&begin, work)
    }

    /// One exchange with a deadline. What leaves the protocol in the middle makes the connection useless.
    fn call<T>(&mut self, exchange: impl FnOnce(&mut Transport) -> Result<T, SqlError>) -> Result<T, SqlError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.transport.until = Instant::now() + self.limit;
        self.transport.outgoing.clear();
        exchange(&mut self.transport).inspect_err(|error| {
            if error.fault == SqlFault::Away || error.fault == SqlFault::ReadOnly {
                self.broken = Some(error.clone());
            }
        })
    }
}

impl Drop for PostgresClient {
    fn drop(&mut self) {
        if self.broken.is_none() {
            frontend::terminate(&mut self.transport.outgoing);
            let _ = self.transport.flush(); // a courtesy
        }
    }
}

/// Takes messages until the server is ready for the next statement. Its first error, if there was one.
fn until_ready(
    transport: &mut Transport,
    mut take: impl FnMut(Message) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let mut failed = None;
    loop {
        match transport.receive() {
            Ok(Message::ReadyForQuery(_)) => return failed.map_or(Ok(()), Err),
            Ok(Message::ErrorResponse(body)) => failed = failed.or(Some(server_error(&body))),
            Ok(message) => take(message)?,
            // It said why before it closed the connection.
            Err(error) => return Err(failed.map_or(error, |why: SqlError| SqlError::away(why))),
        }
    }
}

fn row(body: &DataRowBody) -> Result<Row, SqlError> {
    let bad = |why: &dyn std::fmt::Display| SqlError::away(format!("a row cannot be read: {why}"));
    let ranges: Vec<_> = body.ranges().collect().map_err(|error| bad(&error))?;
    let columns = ranges.into_iter().map(|range| {
        let Some(bytes) = range.map(|range| body.buffer().get(range).unwrap_or_default()) else { return Ok(None) };
        std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|error| bad(&error))
    });
    columns.collect::<Result<_, _>>().map(Row)
}
