//! When a request may be sent a second time.
//!
//! A completion costs money: it is never sent twice on a guess. A connection that was idle may have been closed by the
//! target just as it was used (RFC 9112 §9.3.1); then a request that cannot have been acted on, or that is safe to
//! repeat (RFC 9110 §9.2.2), goes out once more, on a connection that is new.

/// What is known of a request whose connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    /// The connection had served an exchange before.
    pub reused: bool,
    /// Bytes of this request were handed to the socket.
    pub written: bool,
    /// The request is GET or HEAD, or carries an idempotency key.
    pub idempotent: bool,
    /// Bytes of a response had come.
    pub answered: bool,
    /// All of the request is still here to be sent again.
    pub replayable: bool,
    /// It was sent a second time already.
    pub retried: bool,
}

impl Resend {
    /// True where the request may be sent once more.
    pub const fn is_allowed(self) -> bool {
        let is_harmless = !self.written || self.idempotent;
        self.reused && !self.retried && !self.answered && self.replayable && is_harmless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole truth table against the rule as DESIGN words it.
    #[test]
    fn truth_table() {
        let mut retries = 0;
        for bits in 0..64u8 {
            let bit = |n: u8| bits >> n & 1 == 1;
            let resend = Resend {
                reused: bit(0),
                written: bit(1),
                idempotent: bit(2),
                answered: bit(3),
                replayable: bit(4),
                retried: bit(5),
            };
            let once_and_possible = !resend.retried && resend.replayable;
            let untouched = !resend.written && !resend.answered;
            let repeatable = resend.idempotent && !resend.answered;
            let expected = once_and_possible && resend.reused && (untouched || repeatable);
            assert_eq!(resend.is_allowed(), expected, "{resend:?}");
            retries += u32::from(expected);
        }
        assert_eq!(retries, 3);
    }
}
