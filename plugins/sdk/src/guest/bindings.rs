//! Generated from `wit/`; the WIT files are the documentation.
//!
//! One module per part of a world. The worlds of the contract share `description`, and macros that a crate exports
//! share one namespace, so generating the worlds themselves would define its export macro twice. The parts below name
//! interfaces of the contract and define none; the linker joins those that a plugin exports into the contract's world.
#![expect(missing_docs, reason = "generated")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "generated")]

/// What every plugin has: the imports, and `description`.
pub mod describes {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        inline: "
            package mlops:sdk;
            world describes {
                import mlops:plugin/log@0.1.0;
                import mlops:plugin/metrics@0.1.0;
                export mlops:plugin/description@0.1.0;
            }
        ",
        ownership: Borrowing { duplicate_if_necessary: false },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_describes",
    });
}

/// What makes it a transformer.
pub mod transforms {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        inline: "
            package mlops:sdk;
            world transforms {
                export mlops:plugin/transformer@0.1.0;
            }
        ",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_transforms",
    });
}

/// What makes it a detector.
pub mod detects {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        inline: "
            package mlops:sdk;
            world detects {
                export mlops:plugin/detector@0.1.0;
            }
        ",
        with: { "mlops:plugin/types@0.1.0": super::transforms::mlops::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_detects",
    });
}
