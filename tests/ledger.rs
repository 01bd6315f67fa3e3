//! The ledger's promises: what is acknowledged is there, sums are exact at every instant, a crash at any byte leaves a
//! consistent ledger, a file that is not ours is left untouched, trouble passes without loss.

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
