//! The first cluster: header, extensions, backing name. What can be read can be written, and
//! is the same again.
#![no_main]

use backchain_format::qcow2::{Head, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(head) = Head::from_bytes(data) else {
        return;
    };
    if u64::from(head.header.header_length) > data.len() as u64 {
        // Cut off: what is missing would come back as zeros.
        return;
    }
    let again = Header::from_bytes(&head.header.to_bytes()).expect("a valid header is readable");
    assert_eq!(again, head.header);
});
