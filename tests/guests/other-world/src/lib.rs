//! A component that was never meant to be a plugin.

wit_bindgen::generate!({
    inline: "
        package other:thing@1.0.0;

        interface greeter {
            greet: func(name: string) -> string;
        }

        world greeting {
            export greeter;
        }
    ",
});

struct Component;

impl exports::other::thing::greeter::Guest for Component {
    fn greet(name: String) -> String {
        format!("Hello, {name}!")
    }
}

#[cfg(target_arch = "wasm32")]
export!(Component);
