//! A whole file: lists, check, extents, reading.
#![no_main]

use backchain::chain::{MapGate, Reader};
use backchain::check::check;
use backchain::{Format, Source, Tree};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let source: Source = Arc::new(data.to_vec());
    let mut gate = MapGate::default();
    gate.0.insert("image".to_owned(), source);
    let mut tree = Tree::new();
    let Ok(top) = tree.add(&gate, "image", Some(Format::Qcow2)) else {
        return;
    };
    let node = tree.node(top);
    if let Ok(image) = node.image()
        && let Some(image) = image.as_qcow2()
    {
        let _ = check(node.source.as_ref(), image, 10, &mut |_| {});
    }
    let Ok(chain) = tree.chain(top) else {
        return;
    };
    let mut reader = Reader::new(chain.clone());
    let mut buffer = [0; 4096];
    if let Ok(extents) = chain.extents(0) {
        for extent in extents.take(1000).map_while(Result::ok) {
            let _ = reader.read_at(extent.start, &mut buffer);
        }
    }
});
