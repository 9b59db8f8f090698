//! Exports `mlops:plugin@0.9.0`, as a plugin for a host of another time would.

wit_bindgen::generate!({
    inline: "
        package mlops:plugin@0.9.0;

        interface description {
            describe: func() -> string;
        }

        interface transformer {
            transform: func(batch: list<u8>) -> list<u8>;
        }

        world preprocessor {
            export description;
            export transformer;
        }
    ",
});

struct Component;

impl exports::mlops::plugin::description::Guest for Component {
    fn describe() -> String {
        "other-version".to_owned()
    }
}

impl exports::mlops::plugin::transformer::Guest for Component {
    fn transform(batch: Vec<u8>) -> Vec<u8> {
        batch
    }
}

#[cfg(target_arch = "wasm32")]
export!(Component);
