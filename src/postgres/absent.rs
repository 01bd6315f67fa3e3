//! The client of a build without the feature `fleet`: it never connects, so the compiler leaves out whatever would be
//! done with a connection.

use super::sql_error::{SqlError, SqlFault};
use super::text_format::{Parameter, Row};
use crate::config::PostgresUrl;
use std::time::Duration;

/// None can be made.
pub enum PostgresClient {}

impl PostgresClient {
    /// # Errors
    /// Always.
    pub fn connect(_: &PostgresUrl, _: Duration) -> Result<Self, SqlError> {
        Err(SqlError::new(SqlFault::Misconfigured, "this build has no fleet (the cargo feature `fleet`)"))
    }

    pub fn set_limit(&mut self, _: Duration) {
        match *self {}
    }

    pub fn query(&mut self, _: &str, _: &[&dyn Parameter]) -> Result<Vec<Row>, SqlError> {
        match *self {}
    }

    pub fn query_one(&mut self, _: &str, _: &[&dyn Parameter]) -> Result<Row, SqlError> {
        match *self {}
    }

    pub fn batch(&mut self, _: &str) -> Result<(), SqlError> {
        match *self {}
    }

    pub fn copy_in(&mut self, _: &str, _: &[u8]) -> Result<(), SqlError> {
        match *self {}
    }

    pub fn transaction<T>(&mut self, _: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        match *self {}
    }

    pub fn snapshot<T>(
        &mut self,
        _: Duration,
        _: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        match *self {}
    }
}
