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
    values: [u64; COUNT],
    /// A bit for each that is not known.
    unknown: u16,
}

impl Amounts {
    /// Nothing of all, but for one.
    pub fn of(quantity: Quantity, amount: u64) -> Self {
        let mut amounts = Self::default();
        amounts.add(quantity, Some(amount));
        amounts
    }

    /// `None` where it is not known.
    pub fn get(&self, quantity: Quantity) -> Option<u64> {
        (self.unknown & (1 << quantity as u16) == 0).then_some(self.values[quantity as usize])
    }

    /// What is known of it.
    pub fn at_least(&self, quantity: Quantity) -> u64 {
        self.values[quantity as usize]
    }

    /// Adds to one; what is not known (`None`) makes the sum not known. Saturates.
    pub fn add(&mut self, quantity: Quantity, amount: Option<u64>) {
        match amount {
            Some(amount) => {
                let sum = &mut self.values[quantity as usize];
                *sum = sum.saturating_add(amount);
            }
            None => self.unknown |= 1 << quantity as u16,
        }
    }

    /// Adds all of another.
    pub fn add_all(&mut self, other: &Self) {
        Quantity::ALL.into_iter().for_each(|quantity| self.add(quantity, other.get(quantity)));
    }
}
