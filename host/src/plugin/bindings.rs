//! Host side of the contract, generated from `wit/`. Nothing outside `plugin` sees these types.

/// World `preprocessor`, which `postprocessor` has the shape of.
pub(super) mod transformer {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "mlops:plugin/preprocessor",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// World `drift-detector`, on the same types.
pub(super) mod detector {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "mlops:plugin/drift-detector",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "mlops:plugin/log": super::transformer::mlops::plugin::log,
            "mlops:plugin/metrics": super::transformer::mlops::plugin::metrics,
        },
    });
}
