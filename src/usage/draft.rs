//! A record in the making.

use super::record::{Endpoint, Journal, Record};
use crate::limit::levels::Payer;
use std::num::NonZeroU64;
use std::sync::Arc;

/// What is known of a request while it is under way: of a [`Record`], what does not wait for its end. A stream is held
/// for long, and many at a time: it takes less than half of the memory. Units and ranges are those of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    pub started_at: u64,
    pub user: Arc<str>,
    pub team: Option<Arc<str>>,
    pub key_id: Option<i64>,
    pub endpoint: Endpoint,
    pub model_requested: Option<Arc<str>>,
    /// The model that the response's head names.
    pub model: Option<Arc<str>>,
    pub stream: bool,
    pub status: u16,
    pub first_byte_us: Option<u64>,
    pub proxy_us: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// The number of its entry in the journal, where one is kept.
    pub entry: Option<NonZeroU64>,
    pub upstream_request_id: Option<Box<str>>,
}

impl Draft {
    /// Whose limits it is under.
    pub fn payer(&self) -> Payer<'_> {
        Payer { user: &self.user, team: self.team.as_deref() }
    }
}

impl From<Draft> for Record {
    /// The record, but for what is known only at the end.
    fn from(draft: Draft) -> Self {
        Self {
            started_at: draft.started_at,
            user: draft.user,
            team: draft.team,
            key_id: draft.key_id,
            endpoint: draft.endpoint,
            model_requested: draft.model_requested,
            model: draft.model,
            stream: draft.stream,
            status: draft.status,
            first_byte_us: draft.first_byte_us,
            proxy_us: draft.proxy_us,
            request_bytes: draft.request_bytes,
            response_bytes: draft.response_bytes,
            journal: draft.entry.map_or(Journal::Off, |entry| Journal::Close(entry.get())),
            is_retrieval: draft.endpoint.is_retrieval(),
            upstream_request_id: draft.upstream_request_id,
            ..Self::default()
        }
    }
}
