//! SIGHUP: reads the configuration anew, and hands over what can change without a restart: all of it or nothing.
//!
//! In: the configuration that is in force. Out: [`Change`], and lines that say what has changed, what would need a
//! restart, or why nothing was taken. It runs on the thread that watches for signals: files are read, the loop is not
//! held up. Never: a secret in a line.

use crate::access::Hash;
use crate::base::log::{Level, Note};
use crate::config::{Config, Problem, Secret};
use crate::policy::Change;

/// The configuration in force, and how to read it.
pub struct Reloader {
    current: Config,
    read: fn() -> Result<Config, Vec<Problem>>,
}

impl Reloader {
    /// `read` reads the configuration anew.
    pub fn new(current: Config, read: fn() -> Result<Config, Vec<Problem>>) -> Self {
        Self { current, read }
    }

    /// The new settings, if the configuration is valid and any of them differs; and what to tell the operator.
    pub fn reload(&mut self) -> (Option<Change>, Vec<Note>) {
        let new = match (self.read)() {
            Ok(new) => new,
            Err(problems) => {
                let refused = "configuration refused";
                let problems = problems.iter().map(|problem| Note::new(Level::Error, refused).with("error", problem));
                let nothing = Note::new(Level::Error, "configuration not reloaded, nothing has changed");
                return (None, problems.chain([nothing]).collect());
            }
        };
        let changed = self.changed(&new);
        let told = |name| Note::new(Level::Info, "configuration changed").with("variables", name);
        let mut lines: Vec<Note> = changed.iter().map(told).collect();
        if self.needs_restart(&new) {
            lines.push(Note::new(Level::Warn, "other variables have changed too: they need a restart"));
        }
        if changed.is_empty() {
            lines.push(Note::new(Level::Info, "configuration read again, nothing to change"));
            return (None, lines);
        }
        take(&mut self.current, &new);
        (Some(change(&self.current)), lines)
    }

    /// The groups of variables that differ and can change at once.
    fn changed(&self, new: &Config) -> Vec<&'static str> {
        let old = &self.current;
        let differ = |old: &Option<Secret>, new: &Option<Secret>| {
            old.as_ref().map(Secret::expose) != new.as_ref().map(Secret::expose)
        };
        [
            (old.limits != new.limits, "RATE_LIMIT_*,MAX_CONCURRENT_PER_USER,BUDGET_*"),
            (differ(&old.api_key, &new.api_key), "OPENAI_API_KEY"),
            (differ(&old.admin_token, &new.admin_token), "ADMIN_TOKEN"),
            (old.model_name != new.model_name, "MODEL_NAME"),
            (old.prices != new.prices, "PRICES_FILE"),
            (old.log != new.log, "LOG"),
        ]
        .into_iter()
        .filter_map(|(differs, names)| differs.then_some(names))
        .collect()
    }

    /// True where something differs that cannot change at once.
    fn needs_restart(&self, new: &Config) -> bool {
        let mut with_changes = self.current.clone();
        take(&mut with_changes, new);
        // The debug print shows every field but secrets, and those can all change.
        format!("{with_changes:?}") != format!("{new:?}")
    }
}

fn take(current: &mut Config, new: &Config) {
    current.limits = new.limits;
    current.api_key.clone_from(&new.api_key);
    current.admin_token.clone_from(&new.admin_token);
    current.model_name.clone_from(&new.model_name);
    current.prices.clone_from(&new.prices);
    current.log = new.log;
}

/// The settings of a configuration that can change while the proxy runs.
pub fn change(config: &Config) -> Change {
    Change {
        limits: config.limits,
        authorization: config.api_key.as_ref().map(|key| format!("Bearer {}", key.expose())),
        admin: config.admin_token.as_ref().map(|token| Hash::of(token.expose().as_bytes())),
        model_name: config.model_name.clone(),
        prices: config.prices.clone(),
        log: config.log,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local! {
        static DOTENV: RefCell<String> = const { RefCell::new(String::new()) };
    }

    fn read() -> Result<Config, Vec<Problem>> {
        DOTENV.with_borrow(|dotenv| Config::load(&|_| None, dotenv))
    }

    fn write(dotenv: &str) {
        DOTENV.set(dotenv.to_owned());
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_told() {
        write("PORT=1\nOPENAI_API_KEY=sk-old\n");
        let mut reloader = Reloader::new(read().unwrap(), read);
        assert!(reloader.reload().0.is_none());
        write("PORT=2\nOPENAI_API_KEY=sk-new\nRATE_LIMIT_TPM=7\nADMIN_TOKEN=t\n");
        let (change, lines) = reloader.reload();
        let change = change.unwrap();
        assert_eq!(change.authorization.as_deref(), Some("Bearer sk-new"));
        assert_eq!(change.limits.tokens.map(|rate| rate.per_minute), Some(7));
        assert_eq!(change.admin, Some(Hash::of(b"t")));
        let lines = format!("{lines:?}");
        for part in ["RATE_LIMIT_", "OPENAI_API_KEY", "ADMIN_TOKEN", "need a restart"] {
            assert!(lines.contains(part), "{part} in {lines}");
        }
        assert!(!lines.contains("sk-") && !lines.contains("MODEL_NAME"), "{lines}");
    }

    #[test]
    fn one_mistake_and_nothing_changes() {
        write("RATE_LIMIT_RPM=5\n");
        let mut reloader = Reloader::new(read().unwrap(), read);
        write("RATE_LIMIT_RPM=6\nBUDGET_USD_DAY=much\n");
        let (change, lines) = reloader.reload();
        assert!(change.is_none() && lines[1].message.contains("nothing has changed"), "{lines:?}");
        assert!(lines[0].fields[0].1.contains("BUDGET_USD_DAY"), "{lines:?}");
        write("RATE_LIMIT_RPM=6\n");
        assert_eq!(reloader.reload().0.unwrap().limits.requests.map(|rate| rate.burst), Some(6));
    }
}
