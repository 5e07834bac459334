//! The guards before the `plist` crate: no XML or binary file may crash it, or make it build more than is allowed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use propane_config::document::read;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(document) = read(bytes) {
        assert!(document.root.content.to_plist() == document.root.content.to_plist());
    }
});
