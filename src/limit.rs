//! Limits: what each user, each team and everybody together may ask for now. Token buckets, requests in flight and
//! budgets, in exact integer arithmetic.
//! Pure: `now` in, reservations and refusals out.

mod account;
mod accounts;
pub mod bucket;
pub mod budget;
pub mod holdings;
pub mod in_force;
pub mod lease;
pub mod levels;
pub mod limiter;
pub mod overrides;
pub mod purse;
pub mod purses;
pub mod reservation;
pub mod status;
pub mod threshold;
