use wasmparser::{Encoding, Parser, Payload};

use super::{Kind, LoadError};

/// The version of the contract that this host speaks.
pub const CONTRACT_VERSION: &str = "0.1.0";

const PACKAGE: &str = "mlops:plugin/";
const GRANTED_IMPORTS: [&str; 3] = ["log", "metrics", "types"];

/// Longest name of an import or export that is told whole.
const NAME_MAX_CHARS: usize = 256;

/// Imports and exports that a component may have; those of the contract are six.
const NAMES_MAX: usize = 1_000;

/// Largest component that is taken. Components made from Python or JavaScript, interpreter included, have 12–19 MB.
pub const COMPONENT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a component imports and exports, read from its bytes before anything is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The kind that it exports.
    pub kind: Kind,
    /// Full names of its imports.
    pub imports: Vec<String>,
    /// Full names of its exports.
    pub exports: Vec<String>,
    /// The contract version that it was built for.
    pub contract_version: String,
}

impl Interfaces {
    /// Reads and checks the interfaces of a component.
    pub fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        check_header(bytes)?;
        let (imports, exports) = top_level_names(bytes)?;
        let mut contract_version = None;
        for name in imports.iter().chain(&exports) {
            if let Some((_, version)) = contract_interface(name) {
                if !is_compatible(version) {
                    return Err(LoadError::Version {
                        wanted: version.to_owned(),
                        offered: CONTRACT_VERSION.to_owned(),
                    });
                }
                contract_version = Some(version.to_owned());
            }
        }
        let granted = |name: &str| {
            contract_interface(name).is_some_and(|(interface, _)| GRANTED_IMPORTS.contains(&interface))
        };
        if let Some(import) = imports.iter().find(|name| !granted(name)) {
            return Err(LoadError::UndeclaredImport { import: import.clone() });
        }
        let offers = |wanted: &str| {
            exports
                .iter()
                .filter_map(|name| contract_interface(name))
                .any(|(interface, _)| interface == wanted)
        };
        let kind = match (offers("description"), offers("transformer"), offers("detector")) {
            (true, true, false) => Kind::Transformer,
            (true, false, true) => Kind::Detector,
            _ => return Err(LoadError::UnknownWorld { found: exports }),
        };
        let contract_version = contract_version.unwrap_or_default();
        Ok(Self { kind, imports, exports, contract_version })
    }
}

fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > COMPONENT_MAX_BYTES {
        return Err(LoadError::TooLarge { found: bytes.len(), limit: COMPONENT_MAX_BYTES });
    }
    if !bytes.starts_with(b"\0asm") {
        let found = match bytes {
            [] => "an empty file".to_owned(),
            [b'(', ..] => "what looks like WebAssembly text".to_owned(),
            [0x1f, 0x8b, ..] => "a gzip file".to_owned(),
            _ => "other data".to_owned(),
        };
        return Err(LoadError::NotWasm { found });
    }
    match bytes.get(4..8) {
        Some([1, 0, 0, 0]) => Err(LoadError::CoreModule),
        Some(_) => Ok(()),
        None => Err(LoadError::Invalid("it ends within its header".to_owned())),
    }
}

/// A name as it may be printed: whoever made the component chose it, and a terminal obeys control characters. No name of
/// ours has any, so none becomes one.
fn shown(name: &str) -> String {
    let mut shown = String::new();
    for letter in name.chars().take(NAME_MAX_CHARS) {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Names of imports and exports of the outermost component; nested ones are its own business.
fn top_level_names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), LoadError> {
    let invalid = |error: wasmparser::BinaryReaderError| LoadError::Invalid(error.to_string());
    let mut depth = 0_usize;
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Component | Encoding::Module, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                check_count(imports.len(), section.count())?;
                for import in section {
                    imports.push(shown(import.map_err(invalid)?.name.name));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                check_count(exports.len(), section.count())?;
                for export in section {
                    exports.push(shown(export.map_err(invalid)?.name.name));
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// Refuses so many names that they would fill memory.
fn check_count(known: usize, more: u32) -> Result<(), LoadError> {
    if known.saturating_add(more as usize) <= NAMES_MAX {
        return Ok(());
    }
    Err(LoadError::Invalid(format!("more than {NAMES_MAX} imports or exports")))
}

/// Splits `mlops:plugin/transformer@0.1.0` into interface and version.
fn contract_interface(name: &str) -> Option<(&str, &str)> {
    let interface = name.strip_prefix(PACKAGE)?;
    Some(interface.split_once('@').unwrap_or((interface, "none")))
}

/// Whether a component of that version runs here: within `0.1.*`, as Wasmtime matches versions.
fn is_compatible(version: &str) -> bool {
    let patch = version.strip_prefix("0.1.").unwrap_or_default();
    !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        Interfaces::read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn tells_what_a_file_is_instead() {
        assert!(refusal(b"").contains("found an empty file"));
        assert!(refusal(b"(component)").contains("WebAssembly text"));
        assert!(refusal(b"PK\x03\x04").contains("other data"));
        assert!(refusal(b"\0asm\x01\0\0\0").contains("a core WebAssembly module"));
        assert!(refusal(b"\0asm\x0d\0").contains("ends within its header"));
        assert!(refusal(b"\0asm\x0d\0\x01\0").contains("no world that this host knows"));
        assert!(refusal(b"\0asm\x0d\0\x01\0\x0b\xff").contains("not a valid component"));
    }

    #[test]
    fn refuses_more_names_than_memory_should_hold() {
        // A section of imports that says that it has 1,001.
        assert!(refusal(b"\0asm\x0d\0\x01\0\x0a\x02\xe9\x07").contains("more than 1000 imports or exports"));
        assert!(!refusal(b"\0asm\x0d\0\x01\0\x0a\x02\xe8\x07").contains("more than"));
    }

    #[test]
    fn versions_match_within_the_same_minor() {
        for (version, fits) in
            [("0.1.0", true), ("0.1.7", true), ("0.2.0", false), ("1.0.0", false), ("0.1.0-rc", false)]
        {
            assert_eq!(is_compatible(version), fits, "{version}");
        }
    }
}
