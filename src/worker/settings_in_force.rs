//! The limits of the settings as they are now, for the threads that have no part in the loop.

use crate::limit::in_force::SettingsLimits;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared: what one sets, all others get.
#[derive(Clone, Debug, Default)]
pub struct SettingsInForce(Arc<Mutex<SettingsLimits>>);

impl SettingsInForce {
    /// As they are at the start.
    pub fn new(limits: SettingsLimits) -> Self {
        Self(Arc::new(Mutex::new(limits)))
    }

    /// As they are from now on.
    pub fn set(&self, limits: SettingsLimits) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// As they are now.
    pub fn get(&self) -> SettingsLimits {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
