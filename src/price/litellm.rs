//! The table that the whole field uses: LiteLLM's `model_prices_and_context_window.json`, as it is.
//!
//! In: its entries, and the host of the target. Out: the models that an answer from there can name. Never: a price of
//! one provider for another's model, and never one that leaves out a part which the entry tells of in a way that is not
//! understood here: such a model has none.
//!
//! An entry's key is often `PROVIDER/MODEL`, where answers name the bare model. Which provider is meant is told by the
//! target's host; of a host that is not known (a gateway, a server of one's own) a bare name counts where it stands in
//! the table as it is, or where all providers of that model have the same prices.

use super::decimal;
use super::model::{Fields, Model};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The field that tells the format, and the entry that describes it.
const PROVIDER: &str = "litellm_provider";
const SPECIMEN: &str = "sample_spec";

/// The providers whose models a host serves, by the end of its name.
const HOSTS: [(&str, &[&str]); 20] = [
    ("api.openai.com", &["openai", "text-completion-openai"]),
    ("openai.azure.com", &["azure", "azure_text", "azure_ai"]),
    ("services.ai.azure.com", &["azure", "azure_text", "azure_ai"]),
    ("cognitiveservices.azure.com", &["azure", "azure_text", "azure_ai"]),
    ("api.anthropic.com", &["anthropic"]),
    ("generativelanguage.googleapis.com", &["gemini"]),
    ("api.groq.com", &["groq"]),
    ("openrouter.ai", &["openrouter"]),
    ("api.mistral.ai", &["mistral"]),
    ("api.deepseek.com", &["deepseek"]),
    ("api.x.ai", &["xai"]),
    ("api.perplexity.ai", &["perplexity"]),
    ("api.together.xyz", &["together_ai"]),
    ("api.fireworks.ai", &["fireworks_ai"]),
    ("api.cerebras.ai", &["cerebras"]),
    ("api.deepinfra.com", &["deepinfra"]),
    ("api.moonshot.ai", &["moonshot"]),
    ("api.novita.ai", &["novita"]),
    ("api.sambanova.ai", &["sambanova"]),
    ("ai-gateway.vercel.sh", &["vercel_ai_gateway"]),
];

/// Fields that make an ordinary answer cost something else than its tokens at the other fields' prices.
const NOT_UNDERSTOOD: [&str; 6] = [
    "input_cost_per_request",
    "input_cost_per_query",
    "input_cost_per_text_message",
    "citation_cost_per_token",
    "tiered_pricing",
    "off_peak_pricing",
];

/// True for a table in this format.
pub(super) fn is_format(entries: &BTreeMap<String, &RawValue>) -> bool {
    let quoted = format!("\"{PROVIDER}\"");
    entries.values().any(|entry| entry.get().contains(&quoted))
}

/// The models that a target at `host` can mean.
pub(super) fn models(entries: &BTreeMap<String, &RawValue>, host: &str) -> BTreeMap<Box<str>, Model> {
    let host = host.trim_end_matches('.');
    let is_at = |end: &str| host.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let providers = HOSTS.iter().find(|(end, _)| is_at(end)).map(|&(_, providers)| providers);
    let (mut models, mut bare) = (BTreeMap::new(), BTreeMap::<&str, Option<Model>>::new());
    for (name, entry) in entries.iter().filter(|(name, _)| !name.starts_with('_') && *name != SPECIMEN) {
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(entry.get()) else { continue };
        let provider = fields.get(PROVIDER).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let provider = provider.unwrap_or_default();
        if providers.is_some_and(|providers| !providers.contains(&provider.as_str())) {
            continue;
        }
        let model = read(&fields);
        if let Some((_, name)) = name.split_once('/').filter(|(first, _)| provider.starts_with(first)) {
            match bare.entry(name) {
                Entry::Vacant(place) => drop(place.insert(model.clone())),
                Entry::Occupied(mut place) => agree(place.get_mut(), model.as_ref()),
            }
        }
        models.extend(model.map(|model| (name.as_str().into(), model)));
    }
    for (name, model) in bare.into_iter().filter(|(name, _)| !entries.contains_key(*name) || providers.is_some()) {
        if let (Some(model), false) = (model, models.contains_key(name)) {
            models.insert(name.into(), model);
        }
    }
    models
}

/// Leaves nothing of a model whose prices another provider's differ from.
fn agree(known: &mut Option<Model>, other: Option<&Model>) {
    let is_same = |one: &Model, other: &Model| one.prices == other.prices && one.uplifts == other.uplifts;
    match (known.as_mut(), other) {
        (Some(known), Some(other)) if is_same(known, other) => {
            let larger = |one: Option<u64>, other| one.zip(other).map(|(one, other): (u64, u64)| one.max(other));
            known.input_tokens_max = larger(known.input_tokens_max, other.input_tokens_max);
            known.output_tokens_max = larger(known.output_tokens_max, other.output_tokens_max);
        }
        _ => *known = None,
    }
}

/// An entry's prices; `None` where it has none, or some of them cannot be applied.
fn read(entry: &BTreeMap<String, &RawValue>) -> Option<Model> {
    let has = |name: &str| entry.contains_key(name);
    let makes_images = entry.get("mode").is_some_and(|mode| mode.get().contains("image"));
    let (mut fields, mut has_others) = (Fields::default(), false);
    for (name, value) in entry.iter().filter(|(_, value)| value.get() != "null") {
        let is_nothing = decimal::rounded_femto_usd(value.get()) == Ok(0);
        let field = match name.as_str() {
            name if NOT_UNDERSTOOD.contains(&name) && !is_nothing => return None,
            // Of a chat's model it is the price of an image shown to it.
            "input_cost_per_image" if !makes_images || has("output_cost_per_image") => continue,
            "output_cost_per_image" if !makes_images => continue,
            "input_cost_per_token_cache_hit" if !has("cache_read_input_token_cost") => "cache_read_input_token_cost",
            // Some of a day's searches are free.
            "search_context_cost_per_query" if has("search_free_requests") => continue,
            name => name,
        };
        // Anthropic's longer of two times to keep what is cached; with OpenAI it is 12 hours.
        let field = field.replace("_above_1hr", "_above_12hr");
        match fields.take(&field, value, decimal::rounded_femto_usd) {
            Ok(true) => {}
            Ok(false) => has_others |= name.contains("cost") && !is_nothing,
            Err(_) if field.starts_with("max_") => {}
            Err(_) => return None,
        }
    }
    let mut model = fields.into_model();
    let is_free = |token: bool| model.prices.iter().filter(|(key, _)| key.kind.is_token() == token).all(|p| p.1 == 0);
    if is_free(true) && (has_others || !is_free(false)) {
        // It is billed by something else: that its tokens cost nothing says only that.
        model.prices = model.prices.iter().filter(|(key, _)| !key.kind.is_token()).copied().collect();
        model.prices = if model.is_free() { Box::default() } else { model.prices };
    }
    (!model.prices.is_empty()).then_some(model)
}

#[cfg(test)]
mod tests {
    use super::super::PriceTable;
    use crate::usage::record::Usage;

    const TABLE: &str = r#"{
        "sample_spec": {"litellm_provider": "one of", "input_cost_per_token": 0.0, "max_input_tokens": "the most"},
        "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5000000000000002e-06, "mode": "chat",
            "supports_vision": true, "max_input_tokens": "many", "cache_read_input_token_cost": null},
        "azure/gpt-4o": {"litellm_provider": "azure", "input_cost_per_token": 3e-06},
        "azure/eu/gpt-4o": {"litellm_provider": "azure", "input_cost_per_token": 3.3e-06},
        "groq/llama": {"litellm_provider": "groq", "input_cost_per_token": 5e-07, "max_input_tokens": 10},
        "cerebras/llama": {"litellm_provider": "cerebras", "input_cost_per_token": 8e-07},
        "groq/same": {"litellm_provider": "groq", "input_cost_per_token": 5e-07, "max_input_tokens": 10},
        "cerebras/same": {"litellm_provider": "cerebras", "input_cost_per_token": 5e-07, "max_input_tokens": 20},
        "perplexity/sonar": {"litellm_provider": "perplexity", "input_cost_per_token": 1e-06,
            "input_cost_per_request": 0.005},
        "speech": {"litellm_provider": "openai", "input_cost_per_token": 0.0, "input_cost_per_character": 1e-05},
        "free": {"litellm_provider": "openai", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "odd": {"litellm_provider": "openai", "input_cost_per_token": -1},
        "claude": {"litellm_provider": "anthropic", "input_cost_per_token": 1e-06,
            "cache_creation_input_token_cost": 2e-06, "cache_creation_input_token_cost_above_1hr": 4e-06}
    }"#;

    /// What a million input tokens of a model cost at a target there, dollars.
    fn at(host: &str, model: &str) -> Option<f64> {
        let usage = Usage { input_tokens: 1_000_000, total_tokens: 1_000_000, ..Usage::default() };
        let cost = PriceTable::parse_for(TABLE, host).unwrap().cost_nano_usd(model, &usage, None);
        cost.map(|nano| nano as f64 / 1e9)
    }

    #[test]
    fn the_host_tells_whose_prices_they_are() {
        for (host, model, dollars) in [
            ("api.openai.com", "gpt-4o", Some(2.5)),
            ("eu.api.openai.com", "gpt-4o", Some(2.5)),
            ("mine.openai.azure.com", "gpt-4o", Some(3.0)),
            ("mine.openai.azure.com", "eu/gpt-4o", Some(3.3)),
            ("api.groq.com", "llama", Some(0.5)),
            ("api.groq.com", "groq/llama", Some(0.5)),
            ("api.cerebras.ai", "llama", Some(0.8)),
            ("api.cerebras.ai", "gpt-4o", None),
            ("notapi.groq.com", "llama", None),
            // A gateway: what the table calls so itself, or what costs the same everywhere.
            ("localhost", "gpt-4o", Some(2.5)),
            ("localhost", "azure/gpt-4o", Some(3.0)),
            ("localhost", "llama", None),
            ("localhost", "groq/llama", Some(0.5)),
            ("localhost", "same", Some(0.5)),
        ] {
            assert_eq!(at(host, model), dollars, "{model} at {host}");
        }
        let table = PriceTable::parse_for(TABLE, "localhost").unwrap();
        assert_eq!(table.largest_input("same"), Some(20));
    }

    #[test]
    fn what_cannot_be_applied_has_no_price() {
        for model in ["sample_spec", "sonar", "perplexity/sonar", "speech", "odd"] {
            assert_eq!(at("localhost", model), None, "{model}");
        }
        let table = PriceTable::parse_for(TABLE, "").unwrap();
        assert!(table.is_free("free") && !table.is_free("speech"));
        let usage = Usage { input_tokens: 10, cache_write_tokens: 6, cache_write_12h_tokens: 2, ..Usage::default() };
        assert_eq!(table.cost_nano_usd("claude", &usage, None), Some(4 * 1_000 + 4 * 2_000 + 2 * 4_000));
    }
}
