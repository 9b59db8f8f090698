use serde::{Deserialize, Serialize};

/// What a plugin says of itself; fixed by its component bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name: 1 to 64 of `a-z`, `0-9` and `-`, starting with a letter.
    pub name: String,
    /// Version of the plugin.
    pub version: String,
    /// What it is for.
    pub kind: Kind,
    /// One line for people.
    pub summary: String,
    /// JSON Schema of the config.
    pub config_schema: serde_json::Value,
    /// Whether `fit` learns anything.
    pub needs_fit: bool,
    /// Whether a row of the answer depends on the same row of the input alone.
    pub rows_independent: bool,
    /// Whether an instance may be kept for the next call.
    pub instances: InstancePolicy,
    /// Limits it asks for.
    pub limits: ManifestLimits,
}

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Maps a batch to a batch.
    Transformer,
    /// Compares a window with a reference.
    Detector,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Detector => "detector",
        }
    }
}

/// Whether one instance may serve several calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstancePolicy {
    /// A fresh instance for every call.
    Fresh,
    /// An instance may be kept, and is thrown away after any fault.
    Pooled,
}

/// Limits that a manifest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLimits {
    /// Linear memory of one instance.
    pub memory_max_bytes: Option<u64>,
    /// Time of one call.
    pub call_max_ms: Option<u32>,
}

impl Manifest {
    /// Longest summary.
    const SUMMARY_MAX_BYTES: usize = 1024;

    /// Longest config schema.
    const SCHEMA_MAX_BYTES: usize = 64 * 1024;

    /// Checks what the types do not: says what is wrong, if anything.
    pub(super) fn problem(&self, exported: Kind) -> Option<String> {
        if self.kind != exported {
            let (says, exports) = (self.kind.as_str(), exported.as_str());
            return Some(format!("its manifest says `{says}`, but it exports `{exports}`"));
        }
        if !is_plugin_name(&self.name) {
            let name: String = self.name.chars().take(80).collect();
            return Some(format!("its name is {name:?}: expected 1 to 64 of `a-z`, `0-9` and `-`"));
        }
        if self.version.is_empty() || self.version.len() > 64 {
            return Some("its version is empty or longer than 64 bytes".to_owned());
        }
        if self.summary.len() > Self::SUMMARY_MAX_BYTES {
            return Some("its summary is longer than 1 KiB".to_owned());
        }
        if [&self.version, &self.summary].iter().any(|text| text.contains(char::is_control)) {
            return Some("its version or summary has control characters or more than one line".to_owned());
        }
        if !self.config_schema.is_object() {
            return Some("its config schema is not a JSON object".to_owned());
        }
        None
    }

    /// Parses the text of a config schema; an unreadable one becomes `null`, which [`Self::problem`] refuses.
    pub(super) fn parse_schema(text: &str) -> serde_json::Value {
        if text.len() > Self::SCHEMA_MAX_BYTES {
            return serde_json::Value::Null;
        }
        serde_json::from_str(text).unwrap_or_default()
    }
}

fn is_plugin_name(name: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    name.len() <= 64
        && name.bytes().all(allowed)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}
