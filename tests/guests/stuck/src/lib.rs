//! Never returns from `describe`, which the host calls before anyone asked for anything.

use contract::Identity;

contract::export_plugin!(Identity, forever());

fn forever() -> contract::Manifest {
    loop {
        std::hint::black_box(());
    }
}
