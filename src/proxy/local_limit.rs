//! How often the holder of a key may ask for their own usage: each question takes the ledger's reader some time, which
//! others wait for. Whoever may read everything is not limited here.
//!
//! In: questions. Out: whether one is answered, or when to ask again. Never: more buckets than [`USERS_MAX`].

use super::local_request::LocalRequest;
use super::refusal::Refusal;
use crate::base::clock::{MILLISECOND, SECOND};
use crate::base::table::Table;
use crate::http::headers::write_number;
use crate::http::reply::Fault;
use crate::limit::bucket::{Bucket, Rate};

/// Questions of one user.
const QUESTIONS: Rate = Rate { per_minute: 60, burst: 30 };
/// Users that are remembered; of more, all begin with a full bucket again.
const USERS_MAX: usize = 10_000;

/// A small bucket of questions for each user with a key.
#[derive(Default)]
pub struct LocalLimit {
    buckets: Table<Box<str>, Bucket>,
}

impl LocalLimit {
    /// Takes a question of its asker's bucket, at `now` (monotonic nanoseconds).
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn take(&mut self, request: &LocalRequest, now: u64) -> Result<(), Refusal> {
        let Some(user) = asker(request) else { return Ok(()) };
        if self.buckets.get(user).is_none() {
            if self.buckets.len() >= USERS_MAX {
                self.buckets = Table::default();
            }
            self.buckets.insert(user.into(), Bucket::full(QUESTIONS, now));
        }
        let Some(bucket) = self.buckets.get_mut(user) else { return Ok(()) };
        let Err(wait) = bucket.has(QUESTIONS, now, 1) else {
            bucket.take(QUESTIONS, now, 1);
            return Ok(());
        };
        let mut extra = Vec::new();
        write_number(&mut extra, "retry-after", wait.div_ceil(SECOND));
        write_number(&mut extra, "retry-after-ms", wait.div_ceil(MILLISECOND));
        let message = format!("a client key may ask for its user's usage {} times a minute", QUESTIONS.per_minute);
        Err(Refusal::new(Fault::RateLimited, message).with(extra))
    }
}

/// The user who asks for their own usage and may see no other.
pub fn asker(request: &LocalRequest) -> Option<&str> {
    match request {
        LocalRequest::Usage(asked) if asked.own => asked.query.user.as_deref(),
        LocalRequest::Dashboard(asked) if asked.own => asked.user.as_deref(),
        LocalRequest::Help(asked) => asked.own.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::usage_report::{Format, UsageQuery};

    fn question(user: &str, own: bool) -> LocalRequest {
        let asked = UsageQuery::parse("", 0, Format::Json).expect("a question");
        let query = crate::reporting::Query { user: Some(user.to_owned()), ..asked.query };
        LocalRequest::Usage(Box::new(UsageQuery { query, own, ..asked }))
    }

    #[test]
    fn each_holder_of_a_key_has_a_bucket_and_the_administrator_none() {
        let mut limit = LocalLimit::default();
        assert!((0..QUESTIONS.burst).all(|_| limit.take(&question("a", true), 0).is_ok()));
        let refusal = limit.take(&question("a", true), 0).unwrap_err();
        assert_eq!(
            (refusal.fault, &*refusal.extra),
            (Fault::RateLimited, &b"retry-after: 1\r\nretry-after-ms: 1000\r\n"[..])
        );
        assert_eq!(limit.take(&question("b", true), 0), Ok(()));
        assert!((0..1000).all(|_| limit.take(&question("a", false), 0).is_ok()), "who may see all asks about a");
        assert_eq!(limit.take(&question("a", true), SECOND), Ok(()));
        assert!((0..3 * USERS_MAX).all(|n| limit.take(&question(&n.to_string(), true), 0).is_ok()));
        assert!(limit.buckets.len() <= USERS_MAX);
    }
}
