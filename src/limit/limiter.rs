//! Who may ask now: one request bucket for each user.
//!
//! A user whose bucket is full again is forgotten, so memory is bounded by the users of the last burst, whatever names
//! clients make up.

use super::bucket::{Bucket, Rate};
use crate::base::clock::{MILLISECOND, SECOND};
use crate::http::headers::write_decimal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many users are looked at, on each admission, for being forgotten. More than one a request, so that the list of
/// users shrinks faster than it can grow.
const SWEEP_PER_ADMISSION: usize = 2;

/// The state of a user's limit after an admission or refusal: what the `x-ratelimit-*-requests` headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests that a full bucket allows at once.
    pub limit: u64,
    /// Requests allowed at once now.
    pub remaining: u64,
    /// Nanoseconds until the bucket is full.
    pub reset: u64,
}

/// A refusal: the standing, and when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub standing: Standing,
    /// Nanoseconds until the next request would be admitted.
    pub retry_after: u64,
}

/// All users' request buckets.
pub struct Limiter {
    rate: Option<Rate>,
    users: BTreeMap<Arc<str>, Bucket>,
    /// Each user once, with an instant at which their bucket may be full.
    sweep: VecDeque<(u64, Arc<str>)>,
}

impl Limiter {
    /// `None` limits nobody.
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, users: BTreeMap::new(), sweep: VecDeque::new() }
    }

    /// Takes one request from the user's bucket: the user's shared name, and the standing where there is a limit.
    pub fn admit(&mut self, user: &str, now: u64) -> Result<(Arc<str>, Option<Standing>), Refused> {
        let Some(rate) = self.rate else { return Ok((Arc::from(user), None)) };
        self.forget_full(rate, now);
        if let Some((name, _)) = self.users.get_key_value(user) {
            let name = Arc::clone(name);
            let bucket = self.users.get_mut(user).expect("found above");
            let taken = bucket.take(rate, now);
            let standing = standing(bucket, rate);
            return match taken {
                Ok(()) => Ok((name, Some(standing))),
                Err(retry_after) => Err(Refused { standing, retry_after }),
            };
        }
        let name: Arc<str> = Arc::from(user);
        let mut bucket = Bucket::full(rate, now);
        // A full bucket holds at least one request.
        let _ = bucket.take(rate, now);
        self.sweep.push_back((bucket.full_at(rate), Arc::clone(&name)));
        self.users.insert(Arc::clone(&name), bucket);
        Ok((name, Some(standing(&bucket, rate))))
    }

    /// The request was refused after all, or never forwarded: it takes nothing.
    pub fn give_back(&mut self, user: &str, now: u64) {
        if let (Some(rate), Some(bucket)) = (self.rate, self.users.get_mut(user)) {
            bucket.give_back(rate, now);
        }
    }

    /// Users held in memory.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn forget_full(&mut self, rate: Rate, now: u64) {
        for _ in 0..SWEEP_PER_ADMISSION {
            let Some((_, user)) = self.sweep.pop_front_if(|(full_at, _)| *full_at <= now) else { return };
            match self.users.get(&user).map(|bucket| bucket.full_at(rate)) {
                Some(full_at) if full_at > now => self.sweep.push_back((full_at, user)),
                _ => {
                    self.users.remove(&user);
                }
            }
        }
    }
}

fn standing(bucket: &Bucket, rate: Rate) -> Standing {
    Standing { limit: rate.burst, remaining: bucket.remaining(), reset: bucket.time_to_full(rate) }
}

impl Standing {
    /// Appends the three header lines, in OpenAI's formats.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"x-ratelimit-limit-requests: ");
        write_decimal(out, self.limit);
        out.extend_from_slice(b"\r\nx-ratelimit-remaining-requests: ");
        write_decimal(out, self.remaining);
        out.extend_from_slice(b"\r\nx-ratelimit-reset-requests: ");
        write_duration(out, self.reset);
        out.extend_from_slice(b"\r\n");
    }
}

impl Refused {
    /// Appends the standing, and `retry-after` (whole seconds) and `retry-after-ms`, both rounded up: a client that
    /// waits as told is admitted.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.standing.write(out);
        out.extend_from_slice(b"retry-after: ");
        write_decimal(out, self.retry_after.div_ceil(SECOND));
        out.extend_from_slice(b"\r\nretry-after-ms: ");
        write_decimal(out, self.retry_after.div_ceil(MILLISECOND));
        out.extend_from_slice(b"\r\n");
    }
}

/// A duration as Go prints it and OpenAI sends it (`0s`, `6ms`, `8.64s`, `1h8m25.745s`), rounded up to milliseconds.
fn write_duration(out: &mut Vec<u8>, nanoseconds: u64) {
    let milliseconds = nanoseconds.div_ceil(MILLISECOND);
    if (1..1000).contains(&milliseconds) {
        write_decimal(out, milliseconds);
        out.extend_from_slice(b"ms");
        return;
    }
    let (seconds, fraction) = (milliseconds / 1000, milliseconds % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        write_decimal(out, hours);
        out.push(b'h');
    }
    if hours > 0 || minutes > 0 {
        write_decimal(out, minutes);
        out.push(b'm');
    }
    write_decimal(out, seconds % 60);
    if fraction > 0 {
        let digits = format!(".{fraction:03}");
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
    out.push(b's');
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_minute: 600, burst: 3 };

    #[test]
    fn each_user_has_a_bucket_of_their_own() {
        let mut limiter = Limiter::new(Some(RATE));
        for remaining in [2, 1, 0] {
            let (name, standing) = limiter.admit("a", 5).unwrap();
            assert_eq!((&*name, standing.unwrap().remaining), ("a", remaining));
        }
        let refused = limiter.admit("a", 5).unwrap_err();
        assert_eq!(refused.retry_after, SECOND / 10);
        assert_eq!(refused.standing, Standing { limit: 3, remaining: 0, reset: 3 * SECOND / 10 });
        assert!(limiter.admit("b", 5).is_ok(), "another user is not concerned");
        assert!(limiter.admit("a", 5 + SECOND / 10).is_ok());
        limiter.give_back("a", 5 + SECOND / 10);
        assert!(limiter.admit("a", 5 + SECOND / 10).is_ok(), "what was given back is there again");
    }

    #[test]
    fn no_limit_admits_everybody_and_remembers_nobody() {
        let mut limiter = Limiter::new(None);
        for user in 0..1000 {
            assert_eq!(limiter.admit(&user.to_string(), 0).unwrap().1, None);
        }
        assert_eq!(limiter.users(), 0);
    }

    #[test]
    fn users_with_full_buckets_are_forgotten() {
        let mut limiter = Limiter::new(Some(RATE));
        let mut now = 0;
        let mut most = 0;
        for user in 0..100_000 {
            limiter.admit(&user.to_string(), now).unwrap();
            most = most.max(limiter.users());
            now += SECOND / 1000;
        }
        // One token flows in within 100 ms, in which 100 users ask.
        assert!(most < 210, "{most}");
        assert_eq!(limiter.users(), limiter.sweep.len());
    }

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (6 * MILLISECOND, "6ms"),
            (8_640 * MILLISECOND, "8.64s"),
            (60 * SECOND, "1m0s"),
            (864 * SECOND, "14m24s"),
            (4_105_745 * MILLISECOND, "1h8m25.745s"),
        ] {
            let mut out = Vec::new();
            write_duration(&mut out, nanoseconds);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
