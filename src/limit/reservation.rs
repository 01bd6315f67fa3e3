//! What a request asks of the limits that it is under, and what it holds of them until it is settled.
//!
//! An admission checks every limit of every level, then takes from all of them, or from none. What it took is
//! a [`Reservation`], which is settled once, in one of three ways:
//!
//! | settled by | when | the request | its tokens | its money |
//! |---|---|---|---|---|
//! | `release` | the response is over; what it used is charged beside | counts | given back | given back |
//! | `forfeit` | the same, but nobody knows what it used | counts | stay taken | its worst is spent |
//! | `withdraw` | the request was never forwarded | given back | given back | given back |
//!
//! Each of them ends its part of the requests in flight. In: numbers. Out: numbers. Never: a decision.

/// What a request may take, as far as can be told before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservationRequest {
    /// Input and output together.
    pub tokens: u64,
    /// The client set no maximum of tokens: where a full bucket holds less than guessed, that will do.
    pub guessed: bool,
    /// What it may cost; `None` for a request that costs nothing that the ledger would count.
    pub money: Option<Money>,
}

impl ReservationRequest {
    /// What it takes of a budget, nano-dollars.
    pub fn nano_usd(&self) -> u64 {
        self.money.map_or(0, |money| money.nano_usd)
    }
}

/// What a request may take of a budget, nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    /// What it takes where there is so much.
    pub nano_usd: u64,
    /// Where less than this is left it can never begin: what it costs by the client's own word. 0 for one that set no
    /// maximum.
    pub least_nano_usd: u64,
    /// What is left will do beside other requests, too: it is an average. Else only where no other request holds
    /// anything of the budget, so that together they never spend more than there is.
    pub may_share: bool,
}

/// What an admitted request has taken. It is settled once: see the table above.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "what is not settled refuses its user for ever"]
pub struct Reservation {
    pub(super) tokens: u64,
    pub(super) nano_usd: u64,
    /// What it may cost, of which it holds less where less was left.
    pub(super) worst_nano_usd: u64,
    /// At which levels something was limited then, in their order.
    pub(super) levels: [bool; 3],
}

impl Reservation {
    /// True where something was limited.
    pub fn is_tracked(&self) -> bool {
        self.levels.contains(&true)
    }

    /// At how many levels it has taken of limits.
    pub fn levels(&self) -> u64 {
        self.levels.iter().map(|&level| u64::from(level)).sum()
    }

    /// Nano-dollars that it holds.
    pub fn nano_usd(&self) -> u64 {
        self.nano_usd
    }

    /// Nano-dollars that its request may cost: what it holds, or more where less was left; what it holds where nobody
    /// knows.
    pub fn worst_nano_usd(&self) -> u64 {
        self.worst_nano_usd
    }
}
