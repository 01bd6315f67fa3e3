//! Rate limits: token buckets for each user, in exact integer arithmetic. Pure: `now` in, grants and refusals out.

pub mod bucket;
pub mod limiter;
