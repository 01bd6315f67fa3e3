//! What a request asks of its user's limits, and what it holds of them until it is settled.
//!
//! An admission checks every limit, then takes from all of them, or from none. What it took is a [`Reservation`], which
//! is settled once, in one of three ways:
//!
//! | settled by | when | the request | its tokens | its money |
//! |---|---|---|---|---|
//! | `release` | the response is over; what it used is charged beside | counts | given back | given back |
//! | `forfeit` | the same, but nobody knows what it used | counts | stay taken | given back |
//! | `withdraw` | the request was never forwarded | given back | given back | given back |
//!
//! Each of them ends its part of the requests in flight. In: numbers. Out: numbers. Never: a decision.

/// What a request may take, as far as can be told before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservationRequest {
    /// Input and output together.
    pub tokens: u64,
    /// What they cost; `None` for a request that has no cost that the ledger would count.
    pub nano_usd: Option<u64>,
    /// The client set no maximum: where less is left than guessed, what is left will do.
    pub guessed: bool,
}

/// What an admitted request has taken. It is settled once: see the table above.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "what is not settled refuses its user for ever"]
pub struct Reservation {
    pub(super) tokens: u64,
    pub(super) nano_usd: u64,
    /// The user was limited in something then.
    pub(super) tracked: bool,
}

impl Reservation {
    /// True where its user was limited in something.
    pub fn is_tracked(&self) -> bool {
        self.tracked
    }
}
