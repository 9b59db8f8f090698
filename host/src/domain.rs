//! Digests, names, tensors, batches, schemas and signatures: the words that every layer shares.
//!
//! Owns the invariants of these values; a value that exists is valid. Refuses to know files, network, clock,
//! randomness and wasmtime: nothing here does I/O.

mod batch;
mod digest;
mod direction;
mod dtype;
mod element_order;
mod half;
mod mix;
mod name;
mod parallel;
mod schema;
mod shared;
mod suggestion;
mod tensor;

pub use batch::{Batch, BatchError};
pub use digest::{Digest, DigestError};
pub use direction::Direction;
pub use dtype::DataType;
pub use element_order::{do_elements_fit, elements_in_order, have_other_order};
pub use half::{half_from_f64, half_to_f64};
pub use mix::{MIX_STEP, mix};
pub use name::{Name, NameError};
pub use parallel::map_parallel;
pub use schema::{ColumnSpec, SchemaError, Signature, SignatureError};
pub use shared::SharedByDigest;
pub use suggestion::closest;
pub use tensor::{Tensor, TensorError, whole_number};
