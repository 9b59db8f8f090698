//! Does what its config says, and that is never good.
//!
//! `{"behaviour": "loop"}` misbehaves in `transform`, and `{"behaviour": "loop", "in": "open"}` in another call. Without
//! a behaviour it is an honest identity, so that a test can see that a call after a bad one works.

use std::hint::black_box;
use std::sync::atomic::{AtomicI64, Ordering};

use contract::types::{Dtype, Error, InvalidInput, Tensor};
use contract::{GuestTransformer, Manifest, Transformer, log, manifest, metrics};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    behaviour: Behaviour,
    /// The call that misbehaves.
    #[serde(default, rename = "in")]
    call: Call,
    /// What `malformed` gets wrong.
    #[serde(default)]
    how: Malformation,
    /// Tensors of `huge-output`.
    #[serde(default = "default_tensors")]
    tensors: usize,
    /// Bytes of each tensor of `huge-output`, of the message of `huge-error` and of the state of `huge-state`.
    #[serde(default = "default_bytes")]
    bytes: usize,
    /// Whether the tensors of `huge-output` are all the same memory, which makes little of it look like much.
    #[serde(default)]
    alias: bool,
    /// Lines of `chatty` and points of `counting`.
    #[serde(default = "default_lines")]
    lines: usize,
}

#[derive(Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Call {
    Open,
    Fit,
    State,
    #[default]
    Transform,
}

#[derive(Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Behaviour {
    /// Gives back what it gets.
    #[default]
    None,
    /// Never returns.
    Loop,
    /// Takes memory until there is none.
    Memory,
    /// Calls itself without end.
    Stack,
    /// Panics, which traps.
    Panic,
    /// Writes log lines, then does what it should.
    Chatty,
    /// Writes metric points, then does what it should.
    Counting,
    /// Hands lists to `log` and `metrics` that are longer than any line or point may be, then does what it should.
    LongLists,
    /// Answers with more than a host should take.
    HugeOutput,
    /// Fails with a message longer than a host should take.
    HugeError,
    /// Has a state larger than the contract allows.
    HugeState,
    /// Answers with what is no batch.
    Malformed,
    /// Blames a row and a column that do not exist.
    WrongPlace,
    /// Answers with the number of calls that this instance has seen, as nothing should depend on.
    Remember,
}

#[derive(Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Malformation {
    #[default]
    ShortData,
    LongData,
    DuplicateColumn,
    RowCount,
    NoDimensions,
    EmptyName,
    LongName,
    /// A name that is not UTF-8.
    NameNotText,
    /// Dimensions whose product is past 64 bits.
    OverflowingShape,
    /// The same, hidden behind zero rows.
    OverflowingEmptyShape,
    /// A byte string that is longer than its tensor.
    ByteString,
}

fn default_tensors() -> usize {
    4096
}

fn default_bytes() -> usize {
    1 << 20
}

fn default_lines() -> usize {
    1_000_000
}

struct Misbehaving(Config);

contract::export_plugin!(Misbehaving, Manifest { needs_fit: true, ..manifest("misbehaving") });

impl GuestTransformer for Misbehaving {
    fn open(config: String, _state: Option<Vec<u8>>) -> Result<Transformer, Error> {
        let config =
            serde_json::from_str(&config).map_err(|error| Error::InvalidConfig(error.to_string()))?;
        let this = Self(config);
        this.misbehave(Call::Open)?;
        Ok(Transformer::new(this))
    }

    fn fit(&self, _batch: Vec<Tensor>) -> Result<(), Error> {
        self.misbehave(Call::Fit)
    }

    fn state(&self) -> Result<Vec<u8>, Error> {
        self.misbehave(Call::State)?;
        match self.0.behaviour {
            Behaviour::HugeState => Ok(vec![0; self.0.bytes]),
            _ => Ok(b"fitted".to_vec()),
        }
    }

    fn transform(&self, batch: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
        static CALLS: AtomicI64 = AtomicI64::new(0);
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        self.misbehave(Call::Transform)?;
        let rows = batch.first().and_then(|tensor| tensor.shape.first().copied()).unwrap_or_default();
        match self.0.behaviour {
            Behaviour::HugeOutput => Ok(huge_output(rows, &self.0)),
            Behaviour::Malformed => Ok(malformed(rows, self.0.how)),
            Behaviour::Remember => {
                let data = (0..rows).flat_map(|_| calls.to_le_bytes()).collect();
                Ok(vec![tensor("calls", Dtype::Int64, &[rows], data)])
            }
            _ => Ok(batch),
        }
    }
}

impl Misbehaving {
    /// What can go wrong in any call.
    fn misbehave(&self, call: Call) -> Result<(), Error> {
        let config = &self.0;
        if call != config.call {
            return Ok(());
        }
        match config.behaviour {
            Behaviour::Loop => loop {
                black_box(());
            },
            Behaviour::Memory => loop {
                black_box(vec![1_u8; 1 << 20].leak());
            },
            Behaviour::Stack => {
                black_box(recurse(black_box(0)));
            }
            Behaviour::Panic => panic!("the guest panicked as told"),
            Behaviour::Chatty => {
                for line in 0..config.lines {
                    let fields = [("line".to_owned(), line.to_string())];
                    log::log(log::Level::Info, "I have much to say", &fields);
                }
            }
            Behaviour::Counting => {
                for _ in 0..config.lines {
                    metrics::counter_add("points", 1.0, &[]);
                }
            }
            Behaviour::LongLists => long_lists(),
            Behaviour::HugeError => return Err(Error::Other("x".repeat(config.bytes))),
            Behaviour::WrongPlace => {
                return Err(Error::InvalidInput(InvalidInput {
                    message: "nothing is wrong".to_owned(),
                    row: Some(u64::MAX),
                    column: Some("\u{1b}[31mred\nline".to_owned()),
                }));
            }
            _ => {}
        }
        Ok(())
    }
}

#[expect(unconditional_recursion, reason = "on purpose")]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1))) + 1
}

fn tensor(name: &str, dtype: Dtype, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data }
}

/// A hundred megabytes in a list, all of which are the same one.
fn long_lists() {
    let shared = vec![b'x'; 1 << 20].leak();
    let (pointer, length) = (shared.as_mut_ptr(), shared.len());
    // SAFETY: none; as in `huge_output`, and the strings are forgotten below.
    let text = || unsafe { String::from_raw_parts(pointer, length, length) };
    let fields: Vec<_> = (0..100).map(|_| ("field".to_owned(), text())).collect();
    log::log(log::Level::Info, "too much", &fields);
    std::mem::forget(fields);
    let label = |_| metrics::Label { name: "label".to_owned(), value: text() };
    for count in [8, 100] {
        let labels: Vec<_> = (0..count).map(label).collect();
        metrics::counter_add("points", 1.0, &labels);
        std::mem::forget(labels);
    }
    log::log(log::Level::Info, "enough", &[("field".to_owned(), "value".to_owned())]);
    metrics::counter_add(
        "points",
        2.0,
        &[metrics::Label { name: "label".to_owned(), value: "value".to_owned() }],
    );
}

fn huge_output(rows: u64, config: &Config) -> Vec<Tensor> {
    let shared = vec![7_u8; config.bytes].leak();
    let mut data = || {
        if config.alias {
            // SAFETY: none; many vectors own the same memory, which is what this guest is for. The bindings only pass
            // pointer and length to the host, and nothing frees them before the host has given up.
            unsafe { Vec::from_raw_parts(shared.as_mut_ptr(), shared.len(), shared.len()) }
        } else {
            shared.to_vec()
        }
    };
    let shape = [rows, (config.bytes as u64).checked_div(rows).unwrap_or_default()];
    (0..config.tensors).map(|index| tensor(&format!("column{index}"), Dtype::Uint8, &shape, data())).collect()
}

fn malformed(rows: u64, how: Malformation) -> Vec<Tensor> {
    let bytes = usize::try_from(rows).unwrap_or_default();
    let honest = tensor("x", Dtype::Uint8, &[rows], vec![0; bytes]);
    match how {
        Malformation::ShortData => vec![tensor("x", Dtype::Fp32, &[rows, 2], vec![0; bytes * 4])],
        Malformation::LongData => vec![tensor("x", Dtype::Uint8, &[rows], vec![0; bytes + 1])],
        Malformation::DuplicateColumn => vec![honest.clone(), honest],
        Malformation::RowCount => vec![tensor("x", Dtype::Uint8, &[rows + 1], vec![0; bytes + 1])],
        Malformation::NoDimensions => vec![tensor("x", Dtype::Uint8, &[], vec![0])],
        Malformation::EmptyName => vec![Tensor { name: String::new(), ..honest }],
        Malformation::LongName => vec![Tensor { name: "x".repeat(257), ..honest }],
        Malformation::NameNotText => {
            // SAFETY: none; a string that is not text is what this guest is for. Nothing reads it but the host.
            let name = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe]) };
            vec![Tensor { name, ..honest }]
        }
        Malformation::OverflowingShape => {
            vec![tensor("x", Dtype::Uint8, &[rows, u64::MAX, u64::MAX], vec![])]
        }
        Malformation::OverflowingEmptyShape => {
            vec![tensor("x", Dtype::Uint8, &[0, u64::MAX, u64::MAX], vec![])]
        }
        Malformation::ByteString => {
            let data = u32::MAX.to_le_bytes().repeat(bytes);
            vec![tensor("x", Dtype::Bytes, &[rows], data)]
        }
    }
}
