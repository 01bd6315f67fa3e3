//! Which models may be asked for: what the operator has set for a user, a team and everybody must each allow one.
//!
//! A request that costs nothing is let through, and so is a second look at an answer. Of any other one the model must
//! be told by the request itself, or what it is for would be anybody's guess.
//!
//! In: an exchange whose request was read, as far as it is. Out: why it is refused; after its answer, whether another
//! model has served it. Never: a list of models.

use super::api_paths::Cost;
use super::exchange::Exchange;
use super::refusal::Refusal;
use crate::http::reply::Fault;
use crate::limit::levels::{Levels, LimitLevel, Payer};
use crate::policy::Models;
use crate::usage::record::Record;

/// Why a request is not for the target.
///
/// # Errors
/// The first level whose rule does not allow what it asks for.
pub fn check(rules: &Levels<Models>, exchange: &Exchange) -> Result<(), Refusal> {
    let (draft, request) = (&exchange.draft, &exchange.request);
    let asks_something = match request.cost {
        Cost::Free => false,
        Cost::Metered if draft.endpoint.is_retrieval() => false,
        Cost::Metered | Cost::Unmetered(_) => true,
        Cost::Unknown => request.has_body || request.websocket,
    };
    let named = draft.model_requested.as_deref().filter(|_| request.cost == Cost::Metered);
    let denied_at = forbids(rules, draft.payer(), named.unwrap_or_default()).filter(|_| asks_something);
    let Some(level) = denied_at else { return Ok(()) };
    let whose = match level {
        LimitLevel::User => "this user",
        LimitLevel::Team => "this user's team",
        LimitLevel::Total => "all users",
    };
    let message = match named {
        Some(model) => format!("The model {model:?} is not among those for {whose} (limits set --models)."),
        None => format!("Some models only are for {whose} (limits set --models), and this request does not name one."),
    };
    Err(Refusal::new(Fault::ModelNotAllowed, message).about(level.label()))
}

/// True where an answer is by another model than was asked for, and not by one that may be asked for. A dated name
/// (`gpt-4o-2024-08-06`) is the same model's.
pub fn is_evaded(rules: &Levels<Models>, record: &Record) -> bool {
    let (Some(model), Some(asked)) = (record.model.as_deref(), record.model_requested.as_deref()) else { return false };
    let is_same = model.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    !is_same && forbids(rules, record.payer(), model).is_some()
}

/// The first level that does not allow a model; the empty name is of one that is not known.
fn forbids(rules: &Levels<Models>, payer: Payer<'_>, model: &str) -> Option<LimitLevel> {
    LimitLevel::ALL.into_iter().find(|&level| rules.at(level, payer).is_some_and(|models| !models.allow(model)))
}

/// True where not all models are for a payer.
pub fn restrict(rules: &Levels<Models>, payer: Payer<'_>) -> bool {
    !rules.is_empty() && LimitLevel::ALL.into_iter().any(|level| rules.at(level, payer).is_some())
}
