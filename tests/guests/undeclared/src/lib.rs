//! Keeps the contract, and imports one function beyond it.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guest:undeclared;

            world undeclared {
                import other:thing/api;
            }

            package other:thing {
                interface api {
                    call: func(argument: string) -> string;
                }
            }
        ",
        generate_all,
    });
}

use contract::{Identity, Manifest, manifest};

contract::export_plugin!(
    Identity,
    Manifest { summary: bindings::other::thing::api::call("x"), ..manifest("undeclared") }
);
