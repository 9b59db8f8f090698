use crate::domain::Digest;

/// A call that failed: which plugin, which bytes, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("plugin `{name}` ({digest}) {fault}")]
pub struct PluginError {
    /// Name in the manifest.
    pub name: String,
    /// Digest of the component.
    pub digest: Digest,
    /// Why.
    pub fault: Fault,
}

/// Why a call failed. The texts continue "plugin `name` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The batch is not what the plugin takes.
    #[error("refused its input: {}{message}", place(*row, column.as_deref()))]
    InvalidInput {
        /// What was expected and what was found.
        message: String,
        /// Zero-based row within the batch.
        row: Option<u64>,
        /// Column name.
        column: Option<String>,
    },
    /// The config does not match the manifest's schema.
    #[error("refused its config: {0}")]
    InvalidConfig(String),
    /// The state was not written by this plugin.
    #[error("refused its state: {0}")]
    InvalidState(String),
    /// `fit` has not been called and there is no state.
    #[error("has not learned anything yet: it needs `fit` or a state")]
    NotFitted,
    /// An error of the plugin's own.
    #[error("failed: {0}")]
    Other(String),
    /// The guest trapped.
    #[error("crashed: {0}")]
    Trap(String),
    /// The call took too long.
    #[error("ran longer than its limit of {call_max_ms} ms")]
    TimeLimit {
        /// The limit.
        call_max_ms: u32,
    },
    /// The guest wanted more memory than it may have.
    #[error("needs more memory than its limit of {memory_max_bytes} bytes")]
    MemoryLimit {
        /// The limit.
        memory_max_bytes: u64,
    },
    /// The guest recursed too deep.
    #[error("overflowed its stack")]
    StackOverflow,
    /// The guest handed more data to the host than it may.
    #[error("returned more than its limit of {output_max_bytes} bytes")]
    OutputLimit {
        /// The limit.
        output_max_bytes: u64,
    },
    /// The guest returned something the contract does not allow.
    #[error("broke the contract: {0}")]
    Contract(String),
    /// No free instance slot; try again.
    #[error("is busy: all instance slots are in use")]
    Overloaded,
    /// The host could not run the call.
    #[error("could not be called: {0}")]
    Host(String),
}

/// Whose fault an error is. Decides exit codes and HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The caller's or operator's: bad input, config or state.
    User,
    /// The plugin's: trap, limit, contract breach, its own error.
    Plugin,
    /// Too much at once; the same call may succeed later.
    Overload,
    /// Ours.
    Host,
}

impl Fault {
    /// The kinds that are the plugin's fault.
    pub const OF_PLUGINS: [&'static str; 7] =
        ["error", "trap", "time_limit", "memory_limit", "stack_overflow", "output_limit", "contract"];

    /// What it is in a word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidInput { .. } => "invalid_input",
            Self::InvalidConfig(_) => "invalid_config",
            Self::InvalidState(_) => "invalid_state",
            Self::NotFitted => "not_fitted",
            Self::Other(_) => "error",
            Self::Trap(_) => "trap",
            Self::TimeLimit { .. } => "time_limit",
            Self::MemoryLimit { .. } => "memory_limit",
            Self::StackOverflow => "stack_overflow",
            Self::OutputLimit { .. } => "output_limit",
            Self::Contract(_) => "contract",
            Self::Overloaded => "overloaded",
            Self::Host(_) => "host",
        }
    }

    /// Whose fault it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidInput { .. } | Self::InvalidConfig(_) | Self::InvalidState(_) | Self::NotFitted => {
                ErrorClass::User
            }
            Self::Other(_)
            | Self::Trap(_)
            | Self::TimeLimit { .. }
            | Self::MemoryLimit { .. }
            | Self::StackOverflow
            | Self::OutputLimit { .. }
            | Self::Contract(_) => ErrorClass::Plugin,
            Self::Overloaded => ErrorClass::Overload,
            Self::Host(_) => ErrorClass::Host,
        }
    }
}

/// A file that cannot become a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error("not a WebAssembly file: expected a component, found {found}")]
    NotWasm {
        /// What it looks like.
        found: String,
    },
    /// A core module.
    #[error("a core WebAssembly module, not a component: `host plugin build` makes a component of it")]
    CoreModule,
    /// Cut off, damaged or using features that are switched off.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// Larger than the host compiles.
    #[error("a component of {found} bytes: the limit is {limit}")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The compiler wanted more memory than it may have.
    #[error("compiling it takes more memory than the limit of {max_bytes} bytes")]
    CompileMemory {
        /// The limit.
        max_bytes: u64,
    },
    /// The compiler took too long.
    #[error("compiling it takes longer than the limit of {max_seconds} s of a processor")]
    CompileTime {
        /// The limit.
        max_seconds: u64,
    },
    /// What it is compiled to is larger than the host loads.
    #[error("its compiled code takes more than the limit of {max_bytes} bytes")]
    CodeSize {
        /// The limit.
        max_bytes: usize,
    },
    /// The compiler did not survive it.
    #[error("the compiler cannot take it: it {0}")]
    CompilerCrash(String),
    /// The host could not compile it.
    #[error("it could not be compiled: {0}")]
    NotCompiled(String),
    /// Imports something that the host does not provide.
    #[error(
        "it imports `{import}`, which is not granted: only `mlops:plugin/log` and `mlops:plugin/metrics` are"
    )]
    UndeclaredImport {
        /// The import.
        import: String,
    },
    /// Targets a version of the contract that this host does not have.
    #[error("it targets mlops:plugin@{wanted}: this host offers {offered}")]
    Version {
        /// The version it wants.
        wanted: String,
        /// The versions on offer.
        offered: String,
    },
    /// Exports neither a transformer nor a detector.
    #[error(
        "it targets no world that this host knows: expected the exports `mlops:plugin/description` and \
         `mlops:plugin/transformer` or `mlops:plugin/detector`, found {}",
        exports(found)
    )]
    UnknownWorld {
        /// What it exports.
        found: Vec<String>,
    },
    /// Its manifest contradicts the contract.
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
    /// `describe` failed.
    #[error("it could not describe itself: it {0}")]
    Describe(Fault),
}

impl LoadError {
    /// Whose fault it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::CompileMemory { .. }
            | Self::CompileTime { .. }
            | Self::CodeSize { .. }
            | Self::CompilerCrash(_) => ErrorClass::Plugin,
            Self::NotCompiled(_) => ErrorClass::Host,
            _ => ErrorClass::User,
        }
    }
}

fn place(row: Option<u64>, column: Option<&str>) -> String {
    match (row, column) {
        (Some(row), Some(column)) => format!("row {row}, column `{column}`: "),
        (Some(row), None) => format!("row {row}: "),
        (None, Some(column)) => format!("column `{column}`: "),
        (None, None) => String::new(),
    }
}

fn exports(found: &[String]) -> String {
    match found {
        [] => "none".to_owned(),
        names => names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
