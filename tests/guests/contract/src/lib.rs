//! The contract's `preprocessor` world for guests that break it: bindings alone, without the SDK's checks.

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/v0.1",
        world: "mlops:plugin/preprocessor",
        additional_derives: [Clone],
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_preprocessor",
    });
}

pub use bindings::mlops::plugin::{log, metrics, types};
pub use bindings::{export_preprocessor, exports};

pub use exports::mlops::plugin::description::{InstancePolicy, Kind, Limits, Manifest};
pub use exports::mlops::plugin::transformer::{Guest as Plugin, GuestTransformer, Transformer};

/// A manifest that nothing is wrong with.
pub fn manifest(name: &str) -> Manifest {
    Manifest {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        kind: Kind::Transformer,
        summary: "A guest for tests".to_owned(),
        config_schema: r#"{"type":"object"}"#.to_owned(),
        needs_fit: false,
        rows_independent: false,
        instances: InstancePolicy::Pooled,
        limits: Limits { memory_max_bytes: None, call_max_ms: None },
    }
}

/// A transformer that nothing is wrong with: it gives back what it gets.
pub struct Identity;

impl GuestTransformer for Identity {
    fn open(_config: String, _state: Option<Vec<u8>>) -> Result<Transformer, types::Error> {
        Ok(Transformer::new(Self))
    }

    fn fit(&self, _batch: Vec<types::Tensor>) -> Result<(), types::Error> {
        Ok(())
    }

    fn state(&self) -> Result<Vec<u8>, types::Error> {
        Err(types::Error::NotFitted)
    }

    fn transform(&self, batch: Vec<types::Tensor>) -> Result<Vec<types::Tensor>, types::Error> {
        Ok(batch)
    }
}

/// Exports a component whose manifest is what `$describe` evaluates to.
#[macro_export]
macro_rules! export_plugin {
    ($transformer:ty, $describe:expr) => {
        struct Component;

        impl $crate::exports::mlops::plugin::description::Guest for Component {
            fn describe() -> $crate::Manifest {
                $describe
            }
        }

        impl $crate::Plugin for Component {
            type Transformer = $transformer;
        }

        #[cfg(target_arch = "wasm32")]
        $crate::export_preprocessor!(Component with_types_in $crate);
    };
}
