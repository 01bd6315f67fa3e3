//! What is counted on both sides, in whole numbers of a small unit.

/// What is compared. Its number is its place in [`Amounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Requests that a model was reached by.
    Requests,
    /// Input tokens, cached and cache-written ones included.
    Input,
    CachedInput,
    CacheWrite,
    Output,
    InputAudio,
    InputImage,
    OutputAudio,
    OutputImage,
    Images,
    /// Transcribed audio, in microseconds.
    Seconds,
    /// Calls of the target's own tools.
    Calls,
    /// Nano-dollars (10⁻⁹ USD).
    Cost,
}

/// How many there are.
const COUNT: usize = Quantity::ALL.len();

impl Quantity {
    /// Every one, in their order.
    pub const ALL: [Self; 13] = [
        Self::Requests,
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite,
        Self::Output,
        Self::InputAudio,
        Self::InputImage,
        Self::OutputAudio,
        Self::OutputImage,
        Self::Images,
        Self::Seconds,
        Self::Calls,
        Self::Cost,
    ];

    /// As a label, and as `/usage` calls it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Input => "input_tokens",
            Self::CachedInput => "cached_input_tokens",
            Self::CacheWrite => "cache_write_tokens",
            Self::Output => "output_tokens",
            Self::InputAudio => "input_audio_tokens",
            Self::InputImage => "input_image_tokens",
            Self::OutputAudio => "output_audio_tokens",
            Self::OutputImage => "output_image_tokens",
            Self::Images => "images",
            Self::Seconds => "audio_seconds",
            Self::Calls => "tool_calls",
            Self::Cost => "cost_usd",
        }
    }

    /// The one with this label.
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quantity| quantity.label() == label)
    }

    /// Decimal places of the unit that people read it in.
    pub const fn scale(self) -> u32 {
        match self {
            Self::Seconds => 6,
            Self::Cost => 9,
            _ => 0,
        }
    }
}

/// An amount of each quantity; some may not be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// A part may be less than nothing: a correction of a record in another part.
    values: [i64; COUNT],
    /// A bit for each that is not known.
    unknown: u16,
}

impl Amounts {
    /// `None` where it is not known.
    pub fn get(&self, quantity: Quantity) -> Option<u64> {
        (self.unknown & (1 << quantity as u16) == 0).then(|| self.at_least(quantity))
    }

    /// What is known of it.
    pub fn at_least(&self, quantity: Quantity) -> u64 {
        self.values[quantity as usize].max(0).cast_unsigned()
    }

    /// Adds to one. Saturates.
    pub fn add(&mut self, quantity: Quantity, amount: i64) {
        let sum = &mut self.values[quantity as usize];
        *sum = sum.saturating_add(amount);
    }

    /// The sum is not known from here on.
    pub fn lose(&mut self, quantity: Quantity) {
        self.unknown |= 1 << quantity as u16;
    }

    /// Adds what somebody else counts, who may not say it (`None`).
    pub fn add_told(&mut self, quantity: Quantity, amount: Option<u64>) {
        match amount {
            Some(amount) => self.add(quantity, i64::try_from(amount).unwrap_or(i64::MAX)),
            None => self.lose(quantity),
        }
    }
}
