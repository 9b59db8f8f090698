//! Exports `transformer`, and its manifest says `detector`.

use contract::{Identity, Kind, Manifest, manifest};

contract::export_plugin!(Identity, Manifest { kind: Kind::Detector, ..manifest("liar") });
