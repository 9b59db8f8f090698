use super::ManifestLimits;

const MIB: u64 = 1024 * 1024;

/// What one call may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of an instance.
    pub memory_max_bytes: u64,
    /// Wall-clock time of a call.
    pub call_max_ms: u32,
    /// Bytes that one call may hand to the host, its answer included.
    pub output_max_bytes: u64,
    /// Bytes of log lines in one call; what exceeds it is dropped and counted.
    pub log_max_bytes: usize,
    /// Metric points in one call; what exceeds it is dropped.
    pub metric_points_max: usize,
}

/// The most an operator lets any plugin have, whatever its manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsCeiling {
    /// Linear memory of an instance. Also sizes the pool, so it is fixed when a runtime starts.
    pub memory_max_bytes: u64,
    /// Wall-clock time of a call.
    pub call_max_ms: u32,
    /// Bytes that one call may hand to the host.
    pub output_max_bytes: u64,
}

impl Default for LimitsCeiling {
    /// 256 MiB of memory, 10 s a call and 64 MiB of output: a batch of 1,024 images of 224 × 224 × 3 bytes fits four
    /// times, and a plugin that hangs is told off before most HTTP clients give up.
    fn default() -> Self {
        Self { memory_max_bytes: 256 * MIB, call_max_ms: 10_000, output_max_bytes: 64 * MIB }
    }
}

impl LimitsCeiling {
    /// Bytes of log lines a call may write.
    const LOG_MAX_BYTES: usize = 64 * 1024;
    /// Metric points a call may report.
    const METRIC_POINTS_MAX: usize = 256;
    /// Memory of a plugin that asks for nothing.
    const MEMORY_DEFAULT_BYTES: u64 = 64 * MIB;
    /// Time of a plugin that asks for nothing; a row takes microseconds and a batch milliseconds.
    const CALL_DEFAULT_MS: u32 = 1_000;

    /// What a plugin gets that asks for `wanted`.
    pub fn grant(&self, wanted: &ManifestLimits) -> Limits {
        let memory = wanted.memory_max_bytes.unwrap_or(Self::MEMORY_DEFAULT_BYTES);
        let time = wanted.call_max_ms.unwrap_or(Self::CALL_DEFAULT_MS);
        Limits {
            memory_max_bytes: memory.min(self.memory_max_bytes),
            call_max_ms: time.clamp(1, self.call_max_ms.max(1)),
            output_max_bytes: self.output_max_bytes,
            log_max_bytes: Self::LOG_MAX_BYTES,
            metric_points_max: Self::METRIC_POINTS_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_wins_over_the_manifest() {
        let ceiling = LimitsCeiling { memory_max_bytes: MIB, call_max_ms: 50, output_max_bytes: 9 };
        let greedy = ManifestLimits { memory_max_bytes: Some(u64::MAX), call_max_ms: Some(u32::MAX) };
        let granted = ceiling.grant(&greedy);
        assert_eq!((granted.memory_max_bytes, granted.call_max_ms, granted.output_max_bytes), (MIB, 50, 9));
        let modest = ceiling.grant(&ManifestLimits { memory_max_bytes: Some(65_536), call_max_ms: Some(7) });
        assert_eq!((modest.memory_max_bytes, modest.call_max_ms), (65_536, 7));
    }
}
