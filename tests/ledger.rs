//! The ledger's promises, in its own file and without a proxy: what is acknowledged is there, sums are exact at every
//! instant, a crash at any byte leaves a consistent ledger, a file that is not ours is left untouched, trouble passes
//! without loss. Left to others: `kill -9` of the binary (`ledger_crash`), a file in trouble under load
//! (`ledger_faults`), old records (`retention`).

#[path = "ledger/exact.rs"]
mod exact;
#[path = "ledger/files.rs"]
mod files;
#[path = "ledger/keys_and_limits.rs"]
mod keys_and_limits;
#[path = "ledger/once.rs"]
mod once;
#[path = "ledger/oracle.rs"]
mod oracle;
#[path = "ledger/prune.rs"]
mod prune;
#[path = "ledger/threads.rs"]
mod threads;
#[path = "ledger/tiers.rs"]
mod tiers;
