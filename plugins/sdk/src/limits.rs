/// Whether one instance of a plugin may serve several calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// Every call gets a fresh instance: nothing that one call leaves behind can reach another.
    Fresh,
    /// The author promises that a call depends on config, state and batch alone, so the host may keep an instance
    /// for the next call, which is many times faster for small batches.
    Pooled,
}

/// What a plugin asks for; each is capped by the operator's ceiling, and none means the host's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Time of one call, in milliseconds.
    pub call_ms_max: Option<u32>,
}

impl Limits {
    /// The host's defaults.
    pub const DEFAULT: Self = Self { memory_bytes_max: None, call_ms_max: None };
}
