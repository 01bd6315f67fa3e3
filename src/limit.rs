//! Limits: what each user may ask for now. Token buckets, requests in flight and budgets, in exact integer arithmetic.
//! Pure: `now` in, reservations and refusals out.

pub mod bucket;
pub mod budget;
pub mod limiter;
pub mod overrides;
pub mod reservation;
pub mod status;
mod user;
